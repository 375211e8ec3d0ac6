"""The packed format against the dense matrices it stands for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precond.linalg import dense, eye_like, gram, packed_gram, trace


@pytest.mark.usefixtures("x64")
@given(shape=st.lists(st.integers(1, 7), min_size=1, max_size=3), seed=st.integers(0, 9))
def test_a_packed_gram_matrix_is_the_gram_matrix(shape, seed):
    x = jnp.asarray(np.random.default_rng(seed).standard_normal((2, *shape)))

    @functools.partial(jax.jit, static_argnums=1)
    def found(x, axis):
        packed = packed_gram(x, axis)
        return packed, dense(packed), gram(x, axis), trace(packed), trace(dense(packed))

    for axis, d in enumerate(shape):
        packed, whole, expected, *traces = found(x, axis)
        assert packed.shape == (2, d, d)
        assert sum(x.size for x in jax.tree.leaves(packed)) == d * (d + 1)
        np.testing.assert_allclose(whole, expected, rtol=1e-12, atol=1e-12)
        for each in traces:
            np.testing.assert_allclose(each, np.trace(expected, axis1=1, axis2=2), rtol=1e-12)


@pytest.mark.parametrize("d", range(1, 6))
def test_packed_identities_are_identities(d):
    packed = eye_like(jax.ShapeDtypeStruct((2, d, d), jnp.float32))
    np.testing.assert_array_equal(dense(packed), np.broadcast_to(np.eye(d), (2, d, d)))
    assert packed.dtype == jnp.float32

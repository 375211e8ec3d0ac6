"""Tensor-mode products against their definition with `np.kron`."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precond.linalg import gram, multiply
from tests import reference

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@pytest.mark.usefixtures("x64")
@given(shape=shapes, seed=st.integers(0, 9))
def test_gram_is_the_contraction_over_all_other_axes(shape, seed):
    x = np.random.default_rng(seed).standard_normal((2, *shape))
    for axis in range(len(shape)):
        expected = [reference.gram(one, axis) for one in x]
        np.testing.assert_allclose(gram(jnp.asarray(x), axis), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("x64")
@given(shape=shapes, keep=st.integers(0, 15), transpose=st.booleans(), seed=st.integers(0, 9))
def test_multiply_is_the_kronecker_product_of_all_matrices(shape, keep, transpose, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, *shape))
    matrices = [None if keep >> i & 1 else rng.standard_normal((2, d, d)) for i, d in enumerate(shape)]
    expected = []
    for n, one in enumerate(x):
        chosen = [None if m is None else (m[n].T if transpose else m[n]) for m in matrices]
        expected.append(reference.kron_multiply(one, chosen))
    given_ = [None if m is None else jnp.asarray(m) for m in matrices]
    result = multiply(jnp.asarray(x), given_, transpose=transpose)
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-11)

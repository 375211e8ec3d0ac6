"""The closest matrix of rank one: on known singular values, at any scale, and of nothing at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precond.linalg import closest_rank_one

LEADING = jax.jit(closest_rank_one, static_argnums=1)
pytestmark = pytest.mark.usefixtures("x64")


def matrices(values, shape, count=8):
    """Matrices `[count, *shape]` of these singular values, with their first vectors."""
    rng, k = np.random.default_rng(0), len(values)
    left, right = (np.linalg.qr(rng.standard_normal((count, d, k)))[0] for d in shape)
    return (left * values) @ np.swapaxes(right, 1, 2), left[..., 0], right[..., 0]


def sines(x, y):
    """Of the angles between vectors, the second of unit length."""
    x = np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True)
    return np.linalg.norm(x - np.sum(x * y, -1, keepdims=True) * y, axis=-1)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_the_error_falls_as_the_ratio_of_the_singular_values_to_twice_the_steps(shape):
    a, u, v = matrices(3 * np.asarray([1.0, 0.7, 0.5]), shape)
    start = np.abs(v @ np.random.default_rng(0).standard_normal(shape[1])).min()
    for steps in (4, 16):
        k, psi = LEADING(jnp.asarray(a), steps)
        bound = 0.7 ** (2 * steps) * 2 * shape[1] ** 0.5 / start
        assert sines(psi, v).max() < bound
        assert sines(k, u).max() < bound / 0.7
        np.testing.assert_allclose(np.sum(k**2, -1), 3, rtol=bound**2)
        np.testing.assert_allclose(np.sum(psi**2, -1), 3, rtol=bound**2)


def test_it_is_exact_for_rank_one_after_a_step_and_zero_for_zero():
    a, *_ = matrices(np.asarray([2.0]), (5, 3))
    k, psi = LEADING(jnp.asarray(a), 1)
    np.testing.assert_allclose(np.einsum("nm,nk->nmk", k, psi), a, atol=1e-14)
    assert not any(x.any() for x in LEADING(jnp.zeros((2, 5, 3)), 1))


@given(st.floats(-30, 30))
def test_it_scales_with_the_matrix(exponent):
    scale = np.float32(10.0**exponent)
    a = jnp.asarray(matrices(np.asarray([1.0, 0.5]), (3, 4))[0], jnp.float32)
    expected = LEADING(a, 8)
    for x, y in zip(LEADING(a * scale, 8), expected, strict=True):
        np.testing.assert_allclose(x / np.sqrt(scale), y, atol=1e-5)


def test_where_the_singular_values_are_equal_the_product_is_still_one_of_the_closest():
    a, *_ = matrices(np.ones(4), (4, 9))
    k, psi = LEADING(jnp.asarray(a), 16)
    np.testing.assert_allclose(np.linalg.norm(a - np.einsum("nm,nk->nmk", k, psi), axis=(1, 2)), 3**0.5, rtol=1e-12)

"""The inverse by sweeps, which TPUs take for large matrices, against the definition and the Cholesky decomposition."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precond.linalg import positive_inverse, swept_inverse


def matrix(n, condition, dtype):
    rng = np.random.default_rng(n)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return np.asarray((basis * np.geomspace(1, 1 / condition, n)) @ basis.T, dtype)


def error(found, a):
    exact = np.linalg.inv(np.float64(a))
    return np.linalg.norm(np.float64(found) - exact) / np.linalg.norm(exact)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("n", [1, 3, 128, 129, 257, 384])
def test_it_is_the_inverse(n):
    stack = np.stack([matrix(n, condition, np.float64) for condition in (1.0, 1e3)])
    found = swept_inverse(jnp.asarray(stack))
    assert jnp.array_equal(found, jnp.swapaxes(found, 1, 2))
    for x, a in zip(found, stack, strict=True):
        assert error(x, a) < 1e-12


@pytest.mark.parametrize("n", [129, 300])
@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6])
def test_in_float32_its_error_is_that_of_the_cholesky_decomposition_or_little_more(n, condition):
    a = matrix(n, condition, np.float32)
    swept, decomposed = (error(f(jnp.asarray(a)[None])[0], a) for f in (swept_inverse, positive_inverse))
    assert swept < 3 * decomposed


def test_a_matrix_that_is_not_positive_definite_has_none():
    a = np.eye(200, dtype=np.float32)
    a[150, 150] = -1
    found = swept_inverse(jnp.asarray(np.stack([a, np.eye(200, dtype=np.float32)])))
    assert jnp.any(jnp.isnan(found[0]))
    assert jnp.array_equal(found[1], jnp.eye(200))


@pytest.mark.platforms
def test_a_tpu_decomposes_no_matrix_of_more_than_128_rows():
    lowered = jax.jit(positive_inverse).trace(jnp.ones((5, 300, 300))).lower(lowering_platforms=("tpu",)).as_text()
    decomposed = re.findall(r"stablehlo.cholesky .* : tensor<(\w+)xf32>", lowered)
    assert decomposed
    assert set(decomposed) == {"5x128x128"}  # stacks of five are in no other test, whose traces JAX may keep

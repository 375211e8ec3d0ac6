"""Decompositions in calls of one matrix each: of stacks of any length, mapped, differentiated, as those of batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precond.linalg import lapack
from precond.linalg.lapack import cholesky, eigh, orthonormal_columns, solve_positive

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.platforms]


def positive(*shape):
    x = np.random.default_rng(sum(shape)).standard_normal((*shape, shape[-1]))
    return jnp.asarray(x @ np.swapaxes(x, -1, -2) + np.eye(shape[-1]))


# Below, at and above a round of 16 calls; matrices so small that they are done in turns; rounds that are not full.
@pytest.mark.parametrize(("m", "n"), [(1, 64), (3, 64), (16, 64), (17, 64), (37, 64), (5, 63), (2, 1)])
def test_every_matrix_is_decomposed_whatever_the_length_of_the_stack(m, n):
    a = positive(m, n)
    values, vectors = jax.jit(eigh)(a)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(a), rtol=1e-10)
    np.testing.assert_allclose(jnp.einsum("mij,mj,mkj->mik", vectors, values, vectors), a, rtol=0, atol=1e-10 * n)


def test_two_stacks_keep_step():
    a, b = positive(19, 64), jnp.asarray(np.random.default_rng(0).standard_normal((19, 64, 2)))
    np.testing.assert_allclose(jax.jit(solve_positive)(a, b), np.linalg.solve(a, b), rtol=1e-8)


def test_under_vmap_it_is_one_stack():
    a, b = positive(3, 7, 64), jnp.asarray(np.random.default_rng(0).standard_normal((7, 64, 2)))
    np.testing.assert_allclose(jax.jit(jax.vmap(cholesky))(a), np.linalg.cholesky(a), rtol=1e-10, atol=1e-10)
    mapped = jax.jit(jax.vmap(solve_positive, in_axes=(0, None)))(a, b)
    np.testing.assert_allclose(mapped, np.linalg.solve(a, b[None]), rtol=1e-8)


def test_it_has_the_gradient_of_the_batch():
    a = positive(2, 64)
    ours = jax.grad(lambda x: jnp.sum(eigh(x)[0] ** 3))(a)
    # The derivative of the trace of the cube.
    np.testing.assert_allclose(ours, 3 * a @ a, rtol=1e-8)


@pytest.mark.parametrize(("n", "loops"), [(255, 0), (256, 1)])
def test_a_gpu_gets_large_matrices_for_qr_one_after_the_other(n, loops):
    stack = jax.ShapeDtypeStruct((3, n, n), "float32")
    text = jax.jit(orthonormal_columns).trace(stack).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.while") == loops
    assert text.count("geqrf") == 1


def test_one_after_the_other_is_the_stack(monkeypatch):
    monkeypatch.setattr(lapack, "_SLOW_STACK", 3)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 5, 3)))
    np.testing.assert_allclose(lapack._in_turn(lambda x: jnp.linalg.qr(x)[0], x), np.linalg.qr(x)[0])

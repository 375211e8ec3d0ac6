"""Orthogonal iteration by Cholesky decompositions against the QR decomposition it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precond.linalg import cholesky_qr_basis, qr_basis
from tests import reference
from tests.drift import drifting, recorded, root_error

STEP, QR_STEP = jax.jit(cholesky_qr_basis), jax.jit(qr_basis)


def random_basis(n, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("condition", [1e1, 1e4])
def test_it_is_a_qr_step_up_to_signs_from_any_basis(condition):
    rng = np.random.default_rng(0)
    a = np.stack([reference.matrix_of_spectrum(np.geomspace(1 / condition, 1, 9), rng) for _ in range(3)])
    basis = jnp.asarray(np.stack([random_basis(9, seed) for seed in range(3)]))
    ours, theirs = cholesky_qr_basis(jnp.asarray(a), basis), qr_basis(jnp.asarray(a), basis)
    np.testing.assert_allclose(ours * jnp.sign(jnp.sum(ours * theirs, axis=1, keepdims=True)), theirs, atol=1e-7)


@pytest.mark.parametrize("n", [1, 2, 16, 128])
@pytest.mark.parametrize("start", ["eigenvectors", "identity", "random"])
def test_it_never_fails(n, start):
    rng = np.random.default_rng(0)
    thin = [rng.standard_normal((n, r)) for r in (1, 3, max(n // 2, 1))]
    steep = [reference.matrix_of_spectrum(np.geomspace(1 / c, 1, n), rng) for c in (1e4, 1e8, 1e12)]
    a = np.stack([np.zeros((n, n)), np.eye(n), np.ones((n, n)), *(g @ g.T for g in thin), *steep])
    a = np.concatenate([a, 1e20 * a, 1e-20 * a]).astype(np.float32)
    bases = {"eigenvectors": np.linalg.eigh(a)[1], "identity": np.eye(n), "random": random_basis(n)}
    basis = jnp.asarray(np.broadcast_to(bases[start], a.shape), jnp.float32)
    for _ in range(3):
        basis = STEP(jnp.asarray(a), basis)
        q = np.asarray(basis, np.float64)
        assert np.max(np.abs(np.swapaxes(q, 1, 2) @ q - np.eye(n))) < 1e-5


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_the_scale_changes_nothing(scale):
    a = jnp.asarray(drifting(16, 0.99, refreshes=0), jnp.float32)
    basis = jnp.asarray(random_basis(16), jnp.float32)[None]
    np.testing.assert_allclose(STEP(a * np.float32(scale), basis), STEP(a, basis), atol=1e-3)
    np.testing.assert_array_equal(STEP(a * np.float32(2.0**60), basis), STEP(a, basis))


@pytest.mark.usefixtures("x64")
def test_columns_keep_their_places():
    a = jnp.asarray(drifting(8, 0.99, refreshes=0))
    basis = jnp.asarray(np.linalg.eigh(a)[1][:, :, [3, 1, 0, 2, 7, 6, 5, 4]])
    np.testing.assert_allclose(np.abs(cholesky_qr_basis(a, basis)), np.abs(basis), atol=1e-9)


@pytest.mark.parametrize("decay", [0.99, 0.95])
def test_on_recorded_statistics_the_error_is_that_of_a_qr_step(decay):
    for path in recorded(decay):
        ours = theirs = jnp.asarray(np.linalg.eigh(path[0])[1], jnp.float32)[None]
        for a in jnp.asarray(path[1:], jnp.float32)[:, None]:
            ours, theirs = STEP(a, ours), QR_STEP(a, theirs)
            np.testing.assert_allclose(root_error(a[0], ours[0]), root_error(a[0], theirs[0]), rtol=0.1)

"""The damped inverse: against LAPACK at every scale, checked, and refused where it is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import precond
from tests import reference


def refreshed(factors, damping, state=None, order=1, **kwargs):
    root = precond.inverse(damping, **kwargs)
    state = root.init(jnp.zeros((len(factors), 1)), (factors,)).derived[0] if state is None else state
    return jax.jit(lambda f, s: root.refresh(f, s, order, True))(factors, state)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_it_is_the_inverse_at_every_scale(scale):
    a = scale * reference.matrix_of_spectrum(np.geomspace(1e-3, 1, 6), np.random.default_rng(0))
    new = refreshed(jnp.asarray(a, jnp.float32)[None], 1e-2 * scale)
    expected = reference.power(a, -1, 1e-2 * scale)
    np.testing.assert_allclose(
        new.matrix[0] * scale, expected * scale, rtol=0, atol=1e-4 * np.abs(expected).max() * scale
    )
    assert new.health.residual[0] < 1e-4


def test_the_ridge_is_the_damping_to_the_power_of_one_over_the_number_of_factors():
    a = jnp.full((1, 1, 1), 3.0)
    for order, expected in ((1, 1 / 11), (2, 1 / (3 + 8**0.5)), (3, 1 / 5)):
        np.testing.assert_allclose(refreshed(a, 8.0, order=order).matrix, [[[expected]]], rtol=1e-6)


def test_a_matrix_that_is_not_positive_definite_is_refused_until_its_damping_is():
    """An eigenvalue below 0 that no rounding explains: the identity stays, and the ridge grows by tens."""
    a = jnp.asarray(np.diag([1.0, 1.0, -1e-3]), jnp.float32)[None]
    state, refusals = None, 0
    for _ in range(8):
        state = refreshed(a, 1e-5, state)
        refusals = int(state.health.refused[0])
        if state.health.stale[0] == 0:
            break
        np.testing.assert_array_equal(state.matrix[0], np.eye(3))
    assert 2 <= refusals <= 4
    assert state.health.stale[0] == 0
    assert np.isfinite(state.matrix).all()


def test_a_diagonal_factor_is_inverted_by_entry_and_a_zero_one_is_the_identity():
    factors = jnp.asarray([[1.0, 0.0, 4.0], [0.0, 0.0, 0.0]])
    new = refreshed(factors, 1.0)
    np.testing.assert_allclose(new.matrix, [[0.5, 1.0, 0.2], [1.0, 1.0, 1.0]])
    assert refreshed(jnp.zeros((1, 2, 2)), 0.0).matrix.tolist() == [[[1.0, 0.0], [0.0, 1.0]]]


def test_cholesky_computes_inverses_alone():
    root = precond.inverse_root(method=precond.roots.cholesky())
    stack = jnp.ones((1, 2, 2))
    state = root.init(stack, (stack, None))
    with pytest.raises(ValueError, match=r"method=cholesky\(\) computes inverses"):
        root.refresh(stack, state.derived[0], 0.5, True)
    with pytest.raises(ValueError, match="computes no inverses"):
        precond.inverse(method=precond.qr())

"""What every root of the library promises the engine: whatever the factors are, all that it derives is finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import precond
from precond.roots import Health, last_finite
from tests import reference

D = 3
ROOTS = {
    "inverse_root, eigh": lambda: precond.inverse_root(method=precond.eigh()),
    "inverse_root, newton": lambda: precond.inverse_root(method=precond.newton()),
    "inverse_root, composite": lambda: precond.inverse_root(method=precond.composite()),
    "inverse_root, whatever it is": lambda: precond.inverse_root(tolerance=float("inf")),
    "eigenbasis, eigh": lambda: precond.eigenbasis(method=precond.eigh()),
    "eigenbasis, qr": precond.eigenbasis,
    "eigenbasis, cholesky_qr": lambda: precond.eigenbasis(method=precond.roots.cholesky_qr()),
    "eigenbasis, rotations": lambda: precond.eigenbasis(method=precond.roots.rotations()),
    "inverse": precond.inverse,
    "eigen_inverse": precond.eigen_inverse,
    "corrected_inverse": precond.corrected_inverse,
    "store_as": lambda: precond.roots.store_as(precond.inverse_root()),
}
DIAGONAL = ("inverse", "eigen_inverse")
HARD = [np.nan, np.inf, -np.inf, 3e38, 1e-38, 0.0]


def factors(ndim):
    """One that is good, then one with each of the hard numbers in one place, and in all."""
    good = reference.matrix_of_spectrum(np.asarray([0.1, 0.5, 1.0]), np.random.default_rng(0))
    out = [good]
    for x in HARD:
        out += [good.copy(), np.full((D, D), x)]
        out[-2][0, 0] = x
    stack = np.stack(out).astype(np.float32)
    return jnp.asarray(stack if ndim == 3 else np.diagonal(stack, axis1=1, axis2=2))


@pytest.mark.parametrize(("name", "ndim"), [(name, 3) for name in ROOTS] + [(name, 2) for name in DIAGONAL])
def test_all_that_a_root_derives_is_finite_and_the_last_stays_where_the_factor_is_not(name, ndim):
    root, a = ROOTS[name](), factors(ndim)
    old = root.init(jnp.zeros((len(a), D)), (a,)).derived[0]
    broken = ~np.isfinite(np.asarray(a)).reshape(len(a), -1).all(axis=1)
    assert broken.sum() == 6
    is_health = lambda x: isinstance(x, Health)  # noqa: E731
    refresh = jax.jit(lambda a, old, first: root.refresh(a, old, 1.0, first))
    for first in (True, False):
        new = refresh(a, old, jnp.asarray(first))
        for x, before in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True):
            assert x.shape == before.shape
            assert np.isfinite(x.astype(jnp.float32)).all()
        kept = [x for x in jax.tree.leaves(new, is_leaf=is_health) if not is_health(x)]
        had = [x for x in jax.tree.leaves(old, is_leaf=is_health) if not is_health(x)]
        for x, before in zip(kept, had, strict=True):
            np.testing.assert_array_equal(x[broken], before[broken])
        for health in filter(is_health, jax.tree.leaves(new, is_leaf=is_health)):  # a diagonal factor has none
            np.testing.assert_array_equal(health.stale[broken], 1)
        if not name.startswith(("eigenbasis", "corrected")) or first:  # a basis may be the identity
            assert any(np.any(x[0] != before[0]) for x, before in zip(kept, had, strict=True))


def test_a_root_that_does_not_look_is_made_to():
    blind = precond.inverse_root()._replace(refresh=lambda a, derived, power, first: {"a": 1 / a, "b": 2 * a})
    old = {"a": jnp.full((3, 1), 7.0), "b": jnp.full((3, 1), 8.0)}
    new = last_finite(blind).refresh(jnp.asarray([[2.0], [0.0], [jnp.nan]]), old, 1.0, True)
    np.testing.assert_array_equal(new["a"], [[0.5], [7.0], [7.0]])
    np.testing.assert_array_equal(new["b"], [[4.0], [8.0], [8.0]])


def test_averaged_eigenvalues_leave_out_a_gradient_that_is_infinite_once_it_is_whitened():
    root = precond.roots.averaged_eigenvalues()
    usual = np.random.default_rng(0).uniform(1e-3, 2e-3, (2, 3, 2)).astype(np.float32)
    spiked = usual.copy()
    spiked[1] = 1e18  # its square is finite, and that by an eigenvalue of 1e-3 is not
    factors = (jnp.ones((2, 3, 3)), jnp.ones((2, 2, 2)))
    _, before = root.apply(usual, usual, root.init(usual, factors))
    _, after = root.apply(spiked, spiked, before)
    assert after.moments.count.tolist() == [2, 1]
    for old, new in zip(before.moments.values, after.moments.values, strict=True):
        np.testing.assert_array_equal(new[1], old[1])
        assert np.any(new[0] != old[0])
    direction, _ = root.apply(usual, usual, after)
    assert np.isfinite(direction).all()
    assert np.abs(direction[1]).min() > 0


def test_metrics_are_flat_finite_scalars_inside_jit_whatever_the_gradients_are():
    tx, params = precond.shampoo(1e-2, refresh=1), {"kernel": jnp.zeros((4, D)), "bias": jnp.zeros(D)}

    @jax.jit
    def step(g, state):
        state = tx.update(jax.tree.map(lambda p: jnp.full_like(p, g), params), state, params)[1]
        return state, precond.metrics(state)

    state, keys = tx.init(params), set(precond.metrics(tx.init(params)))
    for g in (jnp.nan, 1.0, 0.0, 1e30, 1e-30, jnp.inf, 1e18):
        state, found = step(g, state)
        assert set(found) == keys
        for value in found.values():
            assert value.shape == ()
            assert np.isfinite(value)
    assert found["blocks/skipped"] == 2 * 3  # of NaN, infinity and 1e30, whose square overflows

"""What is accepted, kept, and tried next: refused roots, the damping that escalates, and its return."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precond import absolute, composite, eigh, inverse_root, newton, relative
from precond.roots.guard import Checked, Health, accept, escalated_ridge, unchecked
from tests import reference

METHODS = [eigh(), newton(), composite()]
D = 6


def stack_of(*conditions):
    rng = np.random.default_rng(0)
    values = [np.geomspace(1 / c, 1, D) for c in conditions]
    return jnp.asarray(np.stack([reference.matrix_of_spectrum(v, rng) for v in values]), jnp.float32)


def turn(old, residual, tolerance=0.5, matrix=None):
    """One attempt at every matrix, with residuals that are given."""
    residual = jnp.asarray(residual, jnp.float32)
    matrix = jnp.full_like(old.matrix, 7.0) if matrix is None else matrix
    ones = jnp.ones_like(residual)
    return accept(matrix, residual, old, tolerance, damping=1e-6 * ones, condition=1e6 * ones)


def refresher(root, power=Fraction(1, 4)):
    """A jitted refresh, from factors and what was before to what is now."""
    return jax.jit(lambda factors, old: root.refresh(factors, old, power, jnp.asarray(False)))


def assert_finite(health):
    assert all(np.isfinite(x).all() for x in health)


def same_bits(a, b):
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_a_refused_root_keeps_the_old_matrix_bit_for_bit_and_the_others_go_on():
    old = unchecked(jnp.zeros((4, D, D)))
    old = old._replace(matrix=stack_of(1e1, 1e2, 1e3, 1e4))
    new = turn(old, [0.1, 0.6, jnp.nan, jnp.inf])
    assert (new.matrix[0] == 7).all()
    for i in (1, 2, 3):
        assert same_bits(new.matrix[i], old.matrix[i])
    assert new.health.refused.tolist() == [0, 1, 1, 1]
    assert new.health.stale.tolist() == [0, 1, 1, 1]
    assert new.health.escalated.tolist() == [0, 1, 1, 1]
    np.testing.assert_allclose(new.health.residual[:2], [0.1, 0.6])
    assert (new.health.residual[2:] == jnp.finfo(jnp.float32).max).all()
    # Damping and condition are those of the root in use.
    np.testing.assert_allclose(new.health.damping, [1e-6, 0, 0, 0])
    np.testing.assert_allclose(new.health.condition, [1e6, 1, 1, 1])
    assert_finite(new.health)


def test_a_matrix_that_is_not_finite_is_refused_whatever_its_residual_says():
    old = unchecked(jnp.zeros((3, D, D)))
    matrix = jnp.full((3, D, D), 7.0).at[0, 1, 2].set(jnp.nan).at[1, 5, 5].set(-jnp.inf)
    for tolerance in (0.5, float("inf")):
        new = turn(old, [0.0, 0.0, 0.0], tolerance, matrix)
        assert new.health.refused.tolist() == [1, 1, 0]
        assert same_bits(new.matrix[:2], old.matrix[:2])
        assert (new.matrix[2] == 7).all()


def test_with_infinity_all_is_accepted_that_is_finite_but_not_a_residual_of_nan():
    new = turn(unchecked(jnp.zeros((4, D, D))), [0.0, 1e30, jnp.inf, jnp.nan], float("inf"))
    assert new.health.refused.tolist() == [0, 0, 0, 1]
    assert_finite(new.health)


def test_every_refusal_raises_the_damping_tenfold_up_to_a_bound_and_it_comes_down_again():
    old, ridge, largest = unchecked(jnp.zeros((1, D, D))), jnp.asarray([1e-3]), jnp.ones(1)
    for level in range(1, 12):
        old = turn(old, [9.0])
        assert old.health.escalated.item() == min(level, 8)
        assert old.health.refused.item() == old.health.stale.item() == level
        np.testing.assert_allclose(escalated_ridge(ridge, largest, old), 1e-3 * 10 ** min(level, 8), rtol=1e-6)
    old = turn(old, [0.2])  # accepted, but with a tenth of the damping it might not be
    assert (old.health.escalated.item(), old.health.stale.item(), old.health.refused.item()) == (8, 0, 11)
    for level in range(7, -1, -1):
        old = turn(old, [0.01])
        assert old.health.escalated.item() == level
    assert turn(old, [0.01]).health.escalated.item() == 0
    assert old.health.refused.item() == 11


def test_without_escalation_a_ridge_is_untouched_and_with_it_there_is_one():
    old = unchecked(jnp.zeros((3, 1, 1)))
    health = Health(old.health.numbers.at[:, 3].set(jnp.asarray([0.0, 1.0, 3.0])))
    ridge, largest = jnp.zeros(3), jnp.asarray([5.0, 5.0, 2.0])
    eps = float(jnp.finfo(jnp.float32).eps)
    np.testing.assert_allclose(
        escalated_ridge(ridge, largest, old._replace(health=health)), [0, 50 * eps, 2000 * eps], rtol=1e-6
    )


@given(
    residuals=st.lists(st.sampled_from([0.0, 0.01, 0.3, 0.5, 0.6, 1e30, np.nan, np.inf]), min_size=1, max_size=30),
)
def test_the_counters_are_those_of_their_definitions(residuals):
    old, refused, stale = unchecked(jnp.zeros((1, 1, 1))), 0, 0
    for i, residual in enumerate(residuals):
        before = old.matrix.item()
        old = turn(old, [residual], matrix=jnp.full((1, 1, 1), float(i)))
        good = residual <= 0.5
        refused, stale = refused + (not good), 0 if good else stale + 1
        assert old.matrix.item() == (i if good else before)
        assert (old.health.refused.item(), old.health.stale.item()) == (refused, stale)
        assert 0 <= old.health.escalated.item() <= 8
        assert_finite(old.health)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_factor_that_is_not_finite_changes_no_root_and_the_next_one_is_taken(method, bad):
    root = inverse_root(method=method)
    refresh, good = refresher(root), stack_of(1e2, 1e3, 1e1)
    first = refresh(good, unchecked(good))
    assert first.health.refused.tolist() == [0, 0, 0]
    spoilt = refresh(good.at[1, 0, 0].set(bad), first)
    assert same_bits(spoilt.matrix[1], first.matrix[1])
    assert spoilt.health.refused.tolist() == [0, 1, 0]
    assert_finite(spoilt.health)
    for i in (0, 2):
        np.testing.assert_allclose(spoilt.matrix[i], first.matrix[i], rtol=1e-5, atol=1e-6)
    after = refresh(good, spoilt)
    assert after.health.stale.tolist() == [0, 0, 0]
    # Tried with ten times the damping, which is what its health says; then as before.
    np.testing.assert_allclose(after.health.damping, [1e-6, 1e-5, 1e-6], rtol=1e-4)
    assert after.health.escalated.tolist() == [0, 0, 0]
    np.testing.assert_allclose(refresh(good, after).matrix, first.matrix, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_singular_factor_without_damping_gets_as_much_as_it_needs(method):
    values = np.asarray([0.0, 0.0, 0.1, 0.5, 1.0, 1.0])
    a = reference.matrix_of_spectrum(values, np.random.default_rng(0)).astype(np.float32)
    factors = jnp.asarray(np.stack([(a + a.T) / 2, np.eye(D)]), jnp.float32)
    refresh, now = refresher(inverse_root(method=method, damping=absolute(0.0))), unchecked(factors)
    history = []
    for _ in range(10):
        now = refresh(factors, now)
        history.append(now.health.stale.tolist())
        assert_finite(now.health)
        assert np.isfinite(now.matrix).all()
    assert history[-1] == [0, 0]
    assert [stale[1] for stale in history] == [0] * 10
    np.testing.assert_allclose(now.matrix[1], np.eye(D), rtol=1e-3, atol=1e-3)
    # What is in use is the root of the factor with the damping that its health has, well enough.
    damped = np.asarray(factors[0], np.float64) + now.health.damping[0].item() * np.eye(D)
    expected = reference.power(damped, -0.25)
    assert now.health.damping[0] < 1e-3
    assert np.linalg.norm(now.matrix[0] - expected, 2) / np.linalg.norm(expected, 2) < 0.3


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_damping_below_rounding_settles_where_roots_are_good(method):
    factors = stack_of(1e2, 1e12)
    refresh, now = refresher(inverse_root(method=method, damping=relative(1e-12))), unchecked(factors)
    for _ in range(12):
        now = refresh(factors, now)
        assert_finite(now.health)
    assert now.health.escalated[0] == 0
    assert now.health.damping[1] < 1e-4
    assert now.health.condition[1] > 1e4
    assert now.health.refused[1] <= 6


def test_each_matrix_has_its_own_health_wherever_it_stands_in_the_stack():
    factors, refresh = stack_of(1e2, 1e4, 1e12, 1e1), refresher(inverse_root(method=eigh(), damping=relative(1e-10)))
    together = unchecked(factors)
    for _ in range(3):
        together = refresh(factors, together)
    for i in range(4):
        alone = unchecked(factors[i : i + 1])
        for _ in range(3):
            alone = refresh(factors[i : i + 1], alone)
        assert alone.health.refused.item() == together.health.refused[i].item()
        assert alone.health.escalated.item() == together.health.escalated[i].item()
        np.testing.assert_allclose(alone.matrix[0], together.matrix[i], rtol=1e-3, atol=1e-4)


def test_a_zero_tolerance_refuses_all_that_is_not_exact_and_the_identity_stays():
    factors = stack_of(1e2, 1e3)
    now = refresher(inverse_root(method=eigh(), tolerance=0.0))(factors, unchecked(factors))
    assert isinstance(now, Checked)
    assert now.health.refused.tolist() == [1, 1]
    np.testing.assert_array_equal(now.matrix, np.broadcast_to(np.eye(D), (2, D, D)))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_the_residual_and_the_condition_that_are_reported_are_those_of_the_root(method):
    factors = stack_of(1e1, 1e3, 1e5)
    health = refresher(inverse_root(method=method, damping=relative(1e-6)))(factors, unchecked(factors)).health
    assert (health.residual < np.asarray([1e-4, 1e-3, 1e-1])).all()
    np.testing.assert_allclose(health.condition, [1e1, 1e3, 1e5], rtol=0.3)
    np.testing.assert_allclose(health.damping, 1e-6, rtol=1e-4)

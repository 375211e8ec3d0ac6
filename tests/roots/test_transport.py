"""Second moments that turn with their bases."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import precond
from precond import every
from precond.roots import Root, RootState, rotated, store_as, unchanged
from precond.roots.guard import unchecked
from tests import reference

pytestmark = pytest.mark.usefixtures("x64")


def orthogonal(d, rng):
    return np.linalg.qr(rng.standard_normal((d, d)))[0]


def bases_of(shape, rng):
    return [orthogonal(d, rng) for d in shape]


def turn(v, old, new):
    """Axis after axis, as the engine does."""
    for axis, (a, b) in enumerate(zip(old, new, strict=True)):
        v = rotated().move(v, jnp.asarray(a)[None], jnp.asarray(b)[None], axis)
    return v


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=st.integers(0, 9))
def test_they_are_the_variances_of_independent_entries_in_the_new_basis(shape, seed):
    rng = np.random.default_rng(seed)
    v, old, new = rng.uniform(size=shape), bases_of(shape, rng), bases_of(shape, rng)
    out = turn(jnp.asarray(v)[None], old, new)[0]
    np.testing.assert_allclose(out, reference.rotated_moment(v, old, new), rtol=0, atol=1e-12)
    np.testing.assert_allclose(out.sum(), v.sum(), rtol=1e-12)


def test_a_basis_that_stays_changes_no_bit():
    rng = np.random.default_rng(0)
    v, old = rng.uniform(size=(2, 4, 3)), np.stack([orthogonal(4, rng) for _ in range(2)])
    new = np.stack([old[0], orthogonal(4, rng)])
    out = rotated().move(*map(jnp.asarray, (v, old, new)), 0)
    np.testing.assert_array_equal(out[0], v[0])
    assert np.abs(out[1] - v[1]).max() > 0.01


def test_second_moments_that_are_kept_cost_nothing():
    for root in (precond.eigenbasis(), precond.corrected_inverse(), precond.eigenbasis(transport=unchanged())):
        assert root.transport is None


def test_those_of_ekfac_turn_by_the_same_rule_and_a_diagonal_factor_turns_nothing():
    rng, shape = np.random.default_rng(0), (3, 4)
    root = precond.corrected_inverse(transport=rotated())
    factors = (jnp.zeros((1, 3, 3)), jnp.zeros((1, 4)))
    state, v = root.init(jnp.zeros((1, *shape)), factors), rng.uniform(size=shape)
    new = state.derived[0]._replace(matrix=jnp.asarray(orthogonal(3, rng))[None])
    moments = state.moments._replace(nu=jnp.asarray(v)[None])
    out = root.transport(moments, state.derived[0], new, 0)
    expected = reference.rotated_moment(v, [np.eye(3), np.eye(4)], [np.asarray(new.matrix[0]), np.eye(4)])
    np.testing.assert_allclose(out.nu[0], expected, atol=1e-12)
    assert type(out) is type(moments)
    assert root.transport(moments, state.derived[1], state.derived[1], 1) is moments


def test_bases_in_half_the_memory_turn_them_too():
    rng = np.random.default_rng(0)
    root, factor = store_as(precond.eigenbasis(transport=rotated())), jnp.zeros((1, 3, 3))
    state = root.init(jnp.zeros((1, 3, 2)), (factor, None))
    new = unchecked(factor)._replace(matrix=jnp.asarray(orthogonal(3, rng), jnp.bfloat16)[None])
    moments = state.moments._replace(nu=jnp.ones((1, 3, 2)))
    out = root.transport(moments, state.derived[0], new, 0)
    assert out.nu.dtype == moments.nu.dtype
    np.testing.assert_allclose(out.nu, 1, rtol=0.02)


def following_root():
    """A root that adds to its moments what its derived numbers grow by, ten times as much on the second axis."""

    def init(stack, factors):
        return RootState(tuple(jnp.zeros(f.shape[:1]) for f in factors), jnp.zeros(stack.shape[:1]))

    def refresh(factors, derived, power, first):
        return derived + factors[:, 0, 0]

    def transport(moments, old, new, axis):
        return moments + 10**axis * (new - old)

    return Root(init, refresh, lambda d, g, s: (d, s), None, lambda axis: 0.0, transport=transport)


@given(
    shapes=st.lists(st.tuples(st.integers(1, 6), st.integers(2, 3), st.integers(2, 3)), min_size=1, max_size=3),
    period=st.integers(1, 6),
    stagger=st.booleans(),
    delay=st.integers(0, 1),
)
def test_each_row_is_rotated_once_with_each_of_its_refreshes(shapes, period, stagger, delay):
    schedule = every(period, stagger=stagger, delay=delay)
    tx = precond.scale_by_kronecker(precond.outer_products(1.0), following_root(), refresh=schedule)
    stacks = {str(i): jnp.ones(shape) * (1 + jnp.arange(shape[0])[:, None, None]) for i, shape in enumerate(shapes)}
    state, step = tx.init(stacks), jax.jit(tx.update)
    for _ in range(2 * period + 1):
        _, state = step(stacks, state)
    for root in jax.tree.leaves(state.roots, is_leaf=lambda x: isinstance(x, RootState)):
        first, second = root.derived
        assert np.all(np.asarray(root.moments) > 0)
        np.testing.assert_allclose(root.moments, first + 10 * second, rtol=1e-12)


SCHEDULES = {
    "by default": {},
    "every step": {"refresh": 1},
    "every 10 at once": {"refresh": 10},
    "by eigh": {"refresh": 3, "method": precond.eigh()},
    "before use": {"refresh": every(10, stagger=True)},
}


def sizes(tx, at=50, spike=1000.0):
    """The root mean square of updates: the usual one, and the largest after one gradient of 1000 times."""
    rng, params = np.random.default_rng(0), {"kernel": jnp.zeros((64, 32))}
    state, step, out = tx.init(params), jax.jit(tx.update), []
    for t in range(at + 30):
        gradient = rng.standard_normal((64, 32)) * (spike if t == at else 1.0)
        updates, state = step({"kernel": jnp.asarray(gradient)}, state, params)
        out.append(float(jnp.sqrt(jnp.mean(updates["kernel"] ** 2))))
    return np.mean(out[at - 20 : at]), np.max(out[at + 1 :])


# Each is quick with a method of its own.
QUICK = ("by default", "by eigh")


@pytest.mark.parametrize(
    "schedule", [pytest.param(s, id=n, marks=[pytest.mark.slow] * (n not in QUICK)) for n, s in SCHEDULES.items()]
)
def test_after_one_gradient_of_a_thousand_times_no_update_of_soap_is_twice_as_long(schedule):
    usual, largest = sizes(precond.soap(1.0, **schedule))
    assert largest < 2 * usual


@pytest.mark.parametrize("refresh", [every(1, delay=1, warmup=1), every(1)], ids=["by default", "before use"])
def test_nor_is_one_of_kl_soap(refresh):
    usual, largest = sizes(precond.kl_soap(1.0, refresh=refresh))
    assert largest < 2 * usual


def test_with_second_moments_that_are_kept_updates_grow_by_far_more():
    usual, largest = sizes(precond.soap(1.0, transport=unchanged()))
    assert largest > 5 * usual


def test_what_cannot_work_is_refused_at_construction():
    for make in (precond.eigenbasis, precond.corrected_inverse, lambda **k: precond.soap(1e-3, **k)):
        with pytest.raises(TypeError, match=r"transport.*precond\.roots\.rotated\(\)"):
            make(transport="rotated")


def test_on_the_host_they_turn_when_the_bases_arrive():
    rng, params = np.random.default_rng(0), {"kernel": jnp.zeros((6, 4))}
    tx = precond.soap(1e-3, refresh=precond.on_host(3), transport=rotated())
    state, step = tx.init(params), jax.jit(tx.update)

    def engine(state):
        ((_, found),) = optax.tree.get_all_with_path(state, "KroneckerState")
        (root,) = jax.tree.leaves(found.roots, is_leaf=lambda x: isinstance(x, RootState))
        return root

    with precond.host_refresh(tx, params, workers=1) as refresh:
        for t in range(10):
            before, state = engine(state), refresh(state)
            after = engine(state)
            old, new = ([np.asarray(x.matrix[0]) for x in r.derived] for r in (before, after))
            assert any(np.any(a != b) for a, b in zip(old, new, strict=True)) == (t in (5, 8))
            expected = reference.rotated_moment(np.asarray(before.moments.nu[0]), old, new)
            np.testing.assert_allclose(after.moments.nu[0], expected, rtol=1e-10)
            _, state = step({"kernel": jnp.asarray(rng.standard_normal((6, 4)))}, state)

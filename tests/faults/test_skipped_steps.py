"""A gradient that is not finite: its block goes on at its next finite step as if there had been none."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from tests import catalog

SCHEDULE = optax.linear_schedule(1e-2, 1e-3, 10)
OPTIMIZERS = {
    "shampoo": lambda: precond.shampoo(SCHEDULE, weight_decay=1e-2, refresh=precond.every(3, stagger=True)),
    "shampoo, every step": lambda: precond.shampoo(1e-2, weight_decay=1e-2, refresh=1),
    "shampoo, composite": lambda: precond.shampoo(SCHEDULE, method=precond.composite(), refresh=2),
    "soap": lambda: precond.soap(SCHEDULE, weight_decay=1e-2, refresh=2),
    "soap, rotations": lambda: precond.soap(
        1e-2, method=precond.roots.rotations(), refresh=precond.every(3, stagger=True)
    ),
    "soap, rotated moments": lambda: precond.soap(SCHEDULE, transport=precond.roots.rotated(), refresh=1),
    "kl_shampoo, every step": lambda: precond.kl_shampoo(1e-2, weight_decay=1e-2, refresh=1),
    "kl_shampoo": lambda: precond.kl_shampoo(SCHEDULE, weight_decay=1e-2, refresh=2),
    "kl_soap": lambda: precond.kl_soap(SCHEDULE, weight_decay=1e-2),
    "muon": lambda: precond.muon(1e-2, weight_decay=1e-2, after=precond.transforms.normalize_neurons()),
    "muon, two rates": lambda: precond.muon(SCHEDULE, adam_learning_rate=SCHEDULE, weight_decay=1e-2),
}
# The others differ from one of these in a part that has no say in what is skipped.
QUICK = ("shampoo", "shampoo, composite", "soap", "kl_shampoo", "kl_soap", "muon")
every_optimizer = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in OPTIMIZERS]
)
BAD = {"nan": np.nan, "inf": np.inf, "minus inf": -np.inf, "huge": 1e30}
STEPS = 7


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    shapes = {"first": (6, 4), "second": (6, 4), "conv": (2, 2, 1, 6), "bias": (4,), "scale": (3,)}
    return {name: jnp.asarray(rng.standard_normal(s), jnp.float32) for name, s in shapes.items()}


@pytest.fixture(scope="module")
def gradients(params):
    rng = np.random.default_rng(1)
    return [jax.tree.map(lambda p: np.asarray(rng.standard_normal(p.shape), np.float32), params) for _ in range(STEPS)]


def spoil(gradient, value, names=None, first_only=False):
    def one(path, g):
        if names is not None and path[0].key not in names:
            return g
        g = g.copy()
        g[(0,) * g.ndim if first_only else ...] = value
        return g

    return jax.tree_util.tree_map_with_path(one, gradient)


@functools.cache
def compiled(name):
    tx = OPTIMIZERS[name]()

    @jax.jit
    def step(gradient, state, params):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return tx.init, step


def trajectory(name, params, gradients):
    """Parameters and state after each step."""
    init, step = compiled(name)
    state, out = init(params), []
    for g in gradients:
        params, state = step(g, state, params)
        out.append((params, state))
    return out


def assert_same(a, b):
    chex.assert_trees_all_equal(a, b)


def blocks_state(state):
    """All but the counters of what was skipped."""
    blocked, tail = state
    skipped = blocked.stacks._replace(blocks_skipped=0, steps_skipped=0)
    rest = blocked.otherwise.inner_state._replace(steps_skipped=0)
    return blocked._replace(stacks=skipped, otherwise=rest, steps_skipped=0), tail


@every_optimizer
@pytest.mark.parametrize(
    "value", [pytest.param(x, id=n, marks=[pytest.mark.slow] * (n in ("inf", "minus inf"))) for n, x in BAD.items()]
)
def test_training_goes_on_exactly_as_if_the_step_had_not_been(name, value, params, gradients):
    clean = trajectory(name, params, gradients)
    for at in (0, 3, STEPS - 1):
        faulty = [*gradients[:at], spoil(gradients[at], value), *gradients[at:]]
        run = trajectory(name, params, faulty)
        assert_same(run[at][0], clean[at - 1][0] if at else params)
        for (p, s), (q, t) in zip(run[at + 1 :], clean[at:], strict=True):
            assert_same(p, q)
            assert_same(blocks_state(s), blocks_state(t))
        assert run[-1][1][0].blocks_skipped == 4  # 2 matrices, the convolution, and all that has no view as one


@every_optimizer
def test_one_entry_is_enough_to_skip_its_block_and_no_other(name, params, gradients):
    at = 3
    faulty = [*gradients]
    faulty[at] = spoil(gradients[at], np.nan, {"second"}, first_only=True)
    clean, run = trajectory(name, params, gradients), trajectory(name, params, faulty)
    assert_same(run[at][0]["second"], run[at - 1][0]["second"])
    assert run[-1][1][0].blocks_skipped == 1
    for (p, _), (q, _) in zip(run, clean, strict=True):
        for other in ("first", "conv", "bias"):
            assert_same(p[other], q[other])
    assert not np.array_equal(run[-1][0]["second"], clean[-1][0]["second"])


@pytest.mark.parametrize("name", ["shampoo, every step", "kl_shampoo, every step", "muon"])
def test_a_block_counts_its_own_steps(name, params, gradients):
    """With a refresh in every step nothing else in a block's trajectory depends on the number of the step."""
    for at in (0, 2):
        faulty = [*gradients]
        faulty[at] = spoil(gradients[at], np.inf, {"second"})
        run = trajectory(name, params, faulty)
        shorter = trajectory(name, params, gradients[:at] + gradients[at + 1 :])
        assert_same(run[-1][0]["second"], shorter[-1][0]["second"])


@every_optimizer
def test_parameters_without_a_view_are_skipped_together(name, params, gradients):
    faulty = [*gradients]
    faulty[2] = spoil(gradients[2], np.nan, {"bias"})
    run = trajectory(name, params, faulty)
    for other in ("bias", "scale"):
        assert_same(run[2][0][other], run[1][0][other])
    assert not np.array_equal(run[2][0]["first"], run[1][0]["first"])
    assert run[-1][1][0].blocks_skipped == 1


def test_bare_blocked_gives_zeros_and_a_mark_where_it_is_asked_for(params, gradients):
    for skipped in (0.0, -np.inf):
        tx = precond.blocked(optax.identity(), otherwise=optax.identity(), skipped=skipped)
        bad = spoil(gradients[0], np.nan, {"conv", "bias"})
        updates, state = tx.update(bad, tx.init(params), params)
        assert_same(updates["conv"], np.full_like(bad["conv"], skipped))
        assert_same(updates["bias"], np.full_like(bad["bias"], skipped))
        assert_same(updates["first"], bad["first"])
        assert state.blocks_skipped == 2
        assert state.steps_skipped == 0


def test_a_part_that_breaks_at_a_finite_gradient_is_seen(params, gradients):
    breaks_at_7 = optax.stateless(lambda updates, _: jax.tree.map(lambda g: jnp.where(g == 7, jnp.nan, g), updates))
    tx = precond.shampoo(0.1, otherwise=breaks_at_7)
    updates, _ = tx.update(gradients[0] | {"bias": jnp.full(4, 7.0)}, tx.init(params), params)
    assert np.isnan(updates["bias"]).all()
    assert np.isfinite(updates["first"]).all()


def quick(cases, *names):
    return [pytest.param(x, marks=[pytest.mark.slow] * (x not in names)) for x in cases]


def check_searched(step, params, steps):
    """Nothing trips JAX's search for NaN and infinity, which looks at every operation outside of `jax.jit`."""
    with jax.debug_nans(True), jax.debug_infs(True):
        state = None
        for gradient in steps:
            params, state = step(gradient, state, params)
        jax.block_until_ready(params)


@pytest.mark.parametrize("name", quick(OPTIMIZERS, "shampoo"))
def test_nothing_trips_the_search_for_nan_and_infinity(name, params, gradients):
    tx = OPTIMIZERS[name]()

    def step(gradient, state, params):
        updates, state = tx.update(gradient, tx.init(params) if state is None else state, params)
        return optax.apply_updates(params, updates), state

    zero = jax.tree.map(np.zeros_like, gradients[0])
    check_searched(step, params, [zero, *gradients[:2], spoil(gradients[2], 1e30), gradients[3]])


SEEN_WHOLE = ("kfac", "ekfac", "mfac", "neumann", "adascale_shampoo")


@pytest.mark.parametrize("name", quick(SEEN_WHOLE, "mfac", "neumann"))
def test_neither_do_those_that_see_the_gradient_as_a_whole_or_layers(name, params, gradients):
    tx, some = catalog.find(name).make(), ("first", "bias")
    params = {k: params[k] for k in some}

    def step(gradient, state, params):
        updates, state = tx.update(gradient, tx.init(params) if state is None else state, params)
        return optax.apply_updates(params, updates), state

    few = [{k: g[k] for k in some} for g in gradients[:2]]
    check_searched(step, params, [jax.tree.map(np.zeros_like, few[0]), *few])


KEEPING = ("google_shampoo", "google_tearfree")
SKIPPING = ("meta_shampoo", "meta_soap", "meta_descent", "nvidia_kl_soap", "nvidia_muon", "official_soap")


def after_a_nan(tx, params):
    """Whether the updates of the step after one with a NaN are finite."""
    bad = jax.tree.map(lambda x: x * jnp.nan, params)
    update = jax.jit(tx.update)
    _, state = update(params, tx.init(params), params)
    _, state = update(bad, state, params)
    updates, _ = update(params, state, params)
    return all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(updates))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(x, marks=[pytest.mark.slow] * (x not in ("google_tearfree", "meta_descent", "nvidia_muon")))
        for x in (*KEEPING, *SKIPPING)
    ],
)
def test_recipes_but_googles_skip_a_nan(name):
    tx, params = getattr(precond.recipes, name)(1e-3), {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
    assert after_a_nan(tx, params) == (name in SKIPPING)
    if name in KEEPING:
        assert after_a_nan(precond.transforms.finite_steps(tx), params)

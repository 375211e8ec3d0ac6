"""The engine: order of its steps, refresh schedules, staggering, guards."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import precond
from precond import BlockInfo, every
from precond.engine.refresh_roots import refresh_roots
from precond.roots import Root, RootState


def counting_root(powered=True):
    """A root whose derived value is the sum of the factors it was given, so that one sees who had a turn when."""

    def init(stack, factors):
        return RootState(tuple(jnp.zeros(f.shape[:1]) for f in factors), ())

    def refresh(factors, derived, power, first):
        return derived + factors[:, 0, 0] + (power if powered else 0)

    return Root(init, refresh, lambda d, g, s: (d, s), lambda state, axis, f: f, lambda axis: 0.0)


def turns(schedule, rows, steps):
    """`[steps, roots]`: whether each root was refreshed in each step, numbered through stacks of the given lengths."""
    factors = [jnp.ones((n, 2, 2)) for n in rows]
    derived, out = [jnp.zeros(n) for n in rows], []

    @jax.jit
    def step_(step, derived):
        return refresh_roots(
            counting_root(powered=False), schedule, step, factors, derived, [0] * len(rows), BlockInfo()
        )[0]

    for step in range(1, steps + 1):
        new = step_(step, derived)
        out.append(np.concatenate([np.asarray(b - a) for a, b in zip(derived, new, strict=True)]))
        derived = new
    return np.stack(out)


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        (every(1), range(1, 13)),
        (every(4), [1, 5, 9]),
        (every(4, start=3), [3, 7, 11]),
        (every(4, start=5, phase=0), [5, 8, 12]),
        (every(3, phase=2), [1, 2, 5, 8, 11]),
        # A period of 1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5, 5 steps, and so on.
        pytest.param(every(lambda count: 1 + count / 2.5), [1, 2, 3, 5, 7, 9, 11], id="a schedule"),
    ],
    ids=str,
)
def test_unstaggered_roots_are_all_refreshed_when_due(schedule, due):
    expected = np.isin(np.arange(1, 13), list(due))[:, None] * np.ones(5)
    np.testing.assert_array_equal(turns(schedule, [2, 3], 12), expected)


@given(
    rows=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    period=st.integers(1, 6),
    start=st.integers(1, 3),
)
def test_staggered_roots_are_all_refreshed_at_the_start_and_then_in_turns(rows, period, start):
    due = turns(every(period, start=start, stagger=True), rows, start + 2 * period)
    assert not due[: start - 1].any()
    assert due[start - 1].all()
    first, second = due[start : start + period], due[start + period :]
    np.testing.assert_array_equal(first.sum(axis=0), 1)  # each root once
    np.testing.assert_array_equal(second, first)  # and always in the same turn
    assert first.sum(axis=1).max() == -(-sum(rows) // period)  # spread as evenly as can be


def test_every_root_is_given_its_own_power():
    factors = [jnp.ones((n, 2, 2)) for n in (2, 1, 3)]
    for schedule, step in [(every(1), 1), (every(2, stagger=True), 1), (every(2, stagger=True), 3)]:
        new, _ = refresh_roots(
            counting_root(),
            schedule,
            jnp.asarray(step),
            factors,
            [f[:, 0, 0] * 0 for f in factors],
            [100, 200, 300],
            BlockInfo(),
        )
        for order, stack in enumerate(new, start=1):
            refreshed = np.asarray(stack) > 0
            assert refreshed.any()
            np.testing.assert_array_equal(stack[refreshed], 1 + 100 * order)


def engine(**arguments):
    root = precond.inverse_root(damping=precond.relative(1e-3))
    return precond.scale_by_kronecker(precond.outer_products(0.9), root, **arguments)


def run(tx, gradients):
    state, step, out = tx.init({"s": gradients[0]}), jax.jit(tx.update), []
    for g in gradients:
        updates, state = step({"s": jnp.asarray(g)}, state)
        out.append(np.asarray(updates["s"]))
    return np.stack(out), state


@pytest.fixture
def gradients(x64):
    return np.random.default_rng(0).standard_normal((7, 3, 4, 5))


def test_delayed_roots_have_not_seen_the_gradient_they_meet(gradients):
    changed = gradients.copy()
    changed[-1] *= 1e3
    late, _ = run(engine(refresh=every(1, delay=1)), gradients)
    late_changed, _ = run(engine(refresh=every(1, delay=1)), changed)
    np.testing.assert_allclose(late_changed[-1], 1e3 * late[-1], rtol=1e-10)  # linear in the last gradient
    np.testing.assert_array_equal(late[0], gradients[0])  # the identity, before the first refresh
    newest, _ = run(engine(), gradients)
    newest_changed, _ = run(engine(), changed)
    assert np.abs(newest_changed[-1]).max() < 1e2 * np.abs(newest[-1]).max()


def matrices(state):
    return [x.matrix for x in state.roots["s"].derived]


def test_during_warm_up_only_the_statistics_learn(gradients):
    basis = precond.scale_by_kronecker(
        precond.outer_products(0.9), precond.eigenbasis(), momentum=optax.ema(0.9), refresh=every(2, delay=1, warmup=2)
    )
    out, state = run(basis, gradients[:2])
    assert not out.any()
    assert not optax.tree.get(state, "nu").any()
    assert not state.momentum["s"].ema.any()
    assert all(f.any() for f in jax.tree.leaves(state.statistics.factors))
    assert all(np.abs(q - np.eye(q.shape[-1])).max() > 0.1 for q in matrices(state))


def test_momentum_is_preconditioned_and_statistics_see_raw_gradients(gradients):
    plain, state = run(engine(), gradients)
    heavy, heavy_state = run(engine(momentum=optax.ema(0.9)), gradients)
    chex.assert_trees_all_equal(state.roots, heavy_state.roots)
    assert np.abs(plain[-1] - heavy[-1]).max() > 1e-3


def test_blocks_of_a_stack_do_not_see_each_other(gradients):
    whole, _ = run(engine(refresh=every(2)), gradients)
    parts = [run(engine(refresh=every(2)), gradients[:, i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(whole, np.concatenate(parts, axis=1), rtol=1e-12)


def test_a_root_that_is_not_finite_is_not_taken(gradients):
    poisoned = gradients.copy()
    poisoned[3, 1] = np.nan
    _, before = run(engine(), poisoned[:3])
    _, state = run(engine(), poisoned)
    for old, new in zip(matrices(before), matrices(state), strict=True):
        np.testing.assert_array_equal(new[1], old[1])  # the poisoned block's
        assert np.isfinite(new).all()
        assert np.abs(new[0] - old[0]).max() > 0


STATISTICS = {"outer_products": precond.outer_products, "kl": precond.kl}
ROOTS = {
    "eigh": lambda: precond.inverse_root(method=precond.eigh()),
    "newton": lambda: precond.inverse_root(method=precond.newton()),
    "basis by eigh": lambda: precond.eigenbasis(method=precond.eigh()),
    "basis by qr": lambda: precond.eigenbasis(method=precond.qr()),
}


# Each statistic with a root and with a basis, each root once; the other pairs wait for `make test-slow`.
PAIRS = [("eigh", "kl"), ("newton", "outer_products"), ("basis by eigh", "kl"), ("basis by qr", "outer_products")]


@pytest.mark.parametrize(
    ("root", "statistics"),
    [
        pytest.param(root, given, id=f"{r}-{s}", marks=[pytest.mark.slow] * ((r, s) not in PAIRS))
        for r, root in ROOTS.items()
        for s, given in STATISTICS.items()
    ],
)
@pytest.mark.parametrize(
    "refresh",
    [pytest.param(every(3), marks=pytest.mark.slow), every(3, stagger=True, delay=1, warmup=1)],
    ids=["at once", "in turns"],
)
def test_every_statistic_goes_with_every_root(statistics, root, refresh):
    rng = np.random.default_rng(0)
    scale = jnp.asarray(np.geomspace(1, 30, 6), jnp.float32)[:, None]
    target = jnp.asarray(rng.standard_normal((6, 4)), jnp.float32)
    grad = jax.grad(lambda w: jnp.mean((scale * (w - target)) ** 2))
    direction = precond.scale_by_kronecker(statistics(0.9), root(), momentum=optax.ema(0.9), refresh=refresh)
    tx = optax.chain(
        precond.blocked(precond.graft(direction, optax.scale_by_adam()), block_size=4),
        optax.scale_by_learning_rate(optax.cosine_decay_schedule(0.1, 150)),
    )

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(grad(w), state, w)
        return (optax.apply_updates(w, updates), state), None

    start = jnp.zeros((6, 4))
    (w, _), _ = jax.jit(lambda w: jax.lax.scan(step, (w, tx.init(w)), length=150))(start)
    assert jnp.linalg.norm(w - target) < 0.02 * jnp.linalg.norm(target)


@pytest.mark.platforms
def test_one_call_serves_all_factors_of_one_size():
    root = precond.inverse_root(method=precond.eigh())
    tx = precond.scale_by_kronecker(precond.outer_products(0.9), root, refresh=every(5, stagger=True))
    stacks = {f"{m}x{n}": jnp.ones((2, m, n)) for m, n in [(4, 4), (4, 6), (6, 4), (6, 6)]}
    text = jax.jit(tx.update).trace(stacks, tx.init(stacks)).lower(lowering_platforms=("cuda",)).as_text()
    assert (
        text.count("custom_call @cusolver_syevd") == 2
    )  # two sizes; all turns of the start and the later ones by one program


def test_schedules_are_checked_at_construction():
    for arguments, message in [
        ({"period": 0}, "period=0: must be at least 1"),
        ({"period": 5, "start": 0}, "start=0"),
        ({"period": 5, "delay": 2}, "delay=2: must be 0"),
        ({"period": 5, "phase": 1, "stagger": True}, "phase= has no meaning"),
        ({"period": lambda count: 5, "stagger": True}, "stagger=True has a fixed number of turns"),
    ]:
        with pytest.raises(ValueError, match=message):
            every(**arguments)
    with pytest.raises(TypeError, match="refresh='often'"):
        engine(refresh="often")


SIZES = [2, 4, 7]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("schedule", [every(2), every(3, stagger=True)], ids=["at once", "in turns"])
@pytest.mark.parametrize(
    "method", [precond.eigh, pytest.param(precond.composite, marks=pytest.mark.slow)], ids=["eigh", "composite"]
)
def test_many_sizes_are_padded_to_few_and_no_root_is_another_for_it(schedule, method, monkeypatch):
    rng = np.random.default_rng(0)
    grads = [{f"{d}x{d + 1}": rng.standard_normal((2, d, d + 1)) for d in SIZES} for _ in range(4)]

    def updates():
        root = precond.inverse_root(method=method(), damping=precond.roots.trace_damping(1e-3))
        tx = precond.scale_by_kronecker(precond.outer_products(0.9), root, refresh=schedule)
        state, update, out = tx.init(grads[0]), jax.jit(tx.update), []
        for g in grads:
            u, state = update(jax.tree.map(jnp.asarray, g), state)
            out.append(u)
        return out, state, str(jax.make_jaxpr(tx.update)(grads[0], state)).count(" eigh[")

    exact, _, many = updates()
    monkeypatch.setattr("precond.engine.choose_sizes.SIZES", 2)
    few, state, calls = updates()
    # Which of the smaller roots has its turn when depends on the group that it is in.
    steps = 1 if schedule.stagger else 4
    chex.assert_trees_all_close(few[:steps], exact[:steps], rtol=1e-9)
    shapes = {name: [x.matrix.shape for x in root.derived] for name, root in state.roots.items()}
    assert shapes == {f"{d}x{d + 1}": [(2, d, d), (2, d + 1, d + 1)] for d in SIZES}
    assert method is precond.composite or 0 < calls < many


@pytest.mark.usefixtures("x64")
def test_bases_of_many_sizes_are_padded_to_few_and_no_update_is_another_for_it(monkeypatch):
    rng = np.random.default_rng(0)
    grads = [{f"{d}x{d + 1}": rng.standard_normal((2, d, d + 1)) for d in SIZES} for _ in range(4)]

    def updates():
        root = precond.eigenbasis(0.9, eps=1e-2, transport=precond.roots.rotated())  # rounding is below eps
        tx = precond.scale_by_kronecker(precond.outer_products(0.9), root, refresh=every(2))
        state, update, out = tx.init(grads[0]), jax.jit(tx.update), []
        for g in grads:
            u, state = update(jax.tree.map(jnp.asarray, g), state)
            out.append(u)
        return out, str(jax.make_jaxpr(tx.update)(grads[0], state)).count(" eigh[")

    exact, many = updates()
    monkeypatch.setattr("precond.engine.choose_sizes.SIZES", 2)
    few, calls = updates()
    chex.assert_trees_all_close(few, exact, rtol=1e-9)
    assert (many, calls) == (len({*SIZES, *(d + 1 for d in SIZES)}), 2)


def test_narrow_roots_of_many_sizes_stay_narrow(monkeypatch):
    monkeypatch.setattr("precond.engine.choose_sizes.SIZES", 1)
    root = precond.roots.store_as(precond.inverse_root())
    tx = precond.scale_by_kronecker(precond.outer_products(0.9), root, refresh=every(2, stagger=True))
    stacks = {f"{d}x{d}": jnp.ones((2, d, d)) for d in (2, 3, 5)}
    state = tx.init(stacks)
    _, after = jax.jit(tx.update)(stacks, state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)


def test_roots_of_reference_implementations_are_not_padded():
    # Their iterations start from a vector, and stop at a norm, of the whole matrix.
    seen = []
    tx = precond.recipes.meta_shampoo(0.1)
    with precond.engine.describing():
        state = jax.eval_shape(lambda p: tx.init(p), {"kernel": jnp.ones((4, 3))})
    for x in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, precond.engine.EngineDescription)):
        seen += [x.root.padding] if isinstance(x, precond.engine.EngineDescription) else []
    assert seen == [None]

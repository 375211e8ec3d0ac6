"""What may happen to a run: failures, checkpoints, other devices, wrappers, and mistakes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import precond
from tests.host import runs
from tests.host.runs import SHAPES, N
from tests.mesh import loops

pytestmark = pytest.mark.usefixtures("x64")
TASKS = 8  # two factors of each of four blocks


def metric(state, name):
    return precond.metrics(state)[f"host/{name}"].item()


def roots(state):
    return jax.tree.map(np.array, [e.roots for e in runs.engines(state)])


def test_where_workers_fail_the_last_root_stays_and_is_counted(caplog):
    grads = runs.gradients()
    expected = runs.whole(runs.shampoo(), grads)[0]
    # Of the second refresh, whose roots come before update 3 N, one factor; of the third all.
    pool = runs.Failing({TASKS, *range(2 * TASKS, 3 * TASKS)})
    tx = runs.shampoo()
    params, step, seen = runs.params_of(), runs.stepper(tx), []
    state = tx.init(params)
    with precond.host_refresh(tx, params, workers=pool) as refresh:
        for g, e in zip(grads, expected, strict=True):
            params, state = step(params, refresh(state), g)
            seen.append((metric(state, "failed"), roots(state), jax.tree.map(np.array, params), e))
    assert [failed for failed, *_ in seen] == [0] * (3 * N - 1) + [1] * N + [1 + TASKS] * (len(grads) - 4 * N + 1)
    runs.assert_equal([p for _, _, p, _ in seen[: 3 * N - 1]], [e for *_, e in seen[: 3 * N - 1]])
    one, all_of_them = seen[3 * N - 1][1], seen[4 * N - 1][1]
    runs.assert_equal(all_of_them, one)
    (before,), (after,) = seen[3 * N - 2][1], one
    left, right = (np.any(a.matrix != b.matrix, axis=(1, 2)) for a, b in zip(*derived(before, after), strict=True))
    assert left.tolist() == [False, True, True, True]
    assert right.all()
    assert "MemoryError: no room" in caplog.text


def derived(*states):
    return [state["4x4"].derived for state in states]


def test_a_result_that_is_not_finite_is_a_failure():
    root = precond.inverse_root()
    poor = root._replace(refresh=lambda f, old, p, first: old._replace(matrix=old.matrix * jnp.nan))
    tx = precond.blocked(precond.scale_by_kronecker(precond.outer_products(), poor, refresh=precond.on_host(1)))
    grads = {"w": jnp.ones((2, 2))}
    state, update = tx.init(grads), jax.jit(tx.update)
    with precond.host_refresh(tx, grads, workers=1) as refresh:
        for _ in range(3):
            _, state = update(grads, refresh(state))
    assert metric(state, "failed") == 4  # two refreshes of two factors
    (engine,) = runs.engines(state)
    np.testing.assert_array_equal(engine.roots["2x2"].derived[0].matrix[0], np.eye(2))


@pytest.mark.parametrize("saved", [N, 2 * N - 2, 2 * N - 1, 2 * N])
def test_a_run_saved_with_work_on_its_way_goes_on_bit_for_bit(saved, tmp_path):
    tx, grads = runs.shampoo(), runs.gradients(4 * N)
    expected, _ = runs.whole(tx, grads)
    with precond.host_refresh(tx, runs.params_of(), workers=1) as refresh:
        path, state = runs.run(tx, grads[:saved], refresh)
        params = jax.tree.map(jnp.asarray, path[-1])
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "run", (params, state))
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), (params, state))
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "run", target)
    with precond.host_refresh(tx, runs.params_of(), workers=1) as refresh:
        after, state = runs.run(tx, grads[saved:], refresh, restored)
    runs.assert_equal(path + after, expected)
    assert metric(state, "failed") == 0


def test_a_state_from_before_begins_again_from_its_own_factors():
    tx, grads = runs.shampoo(), runs.gradients(4 * N + 1)  # the last call begins a refresh, which is on its way still
    with precond.host_refresh(tx, runs.params_of(), workers=1) as refresh:
        first, _ = runs.run(tx, grads, refresh)
        again, _ = runs.run(tx, grads, refresh)
    runs.assert_equal(again, first)


def test_factors_that_nobody_was_given_are_counted():
    tx, grads = runs.shampoo(), runs.gradients(3 * N)
    state = runs.run(tx, grads[: 2 * N], lambda state: state)[1]  # nobody was there
    with precond.host_refresh(tx, runs.params_of(), workers=1) as refresh:
        _, state = runs.run(tx, grads[2 * N :], refresh, (runs.params_of(), state))
    assert metric(state, "failed") == 4  # blocks
    assert metric(state, "staleness") == N  # and the next ones came in time


def on_mesh(count):
    """A run, and the lengths of the stacks that a device was ever given back from the host."""
    mesh, lengths = loops.mesh_of(shape=(count,)), set()
    tx = runs.shampoo(axis="data", mesh=mesh)
    params = loops.put(runs.params_of(), mesh)
    start = params, jax.jit(tx.init)(params)

    def watched(state):
        state = refresh(state)
        stacks = [x for x in jax.tree.leaves(runs.engines(state)[0]) if x.ndim]
        lengths.update(len(x.addressable_shards[0].data) for x in stacks)
        return state

    with precond.host_refresh(tx, params, workers=1) as refresh:
        path, _ = runs.run(tx, [loops.put(g, mesh) for g in runs.gradients()], watched, start)
    return path, lengths


def test_eight_devices_are_as_one():
    (path, lengths), (alone, _) = on_mesh(8), on_mesh(1)
    chex.assert_trees_all_close(path, alone, rtol=0, atol=1e-12)
    assert lengths == {1}  # of a stack of 8 with its padding


def partitioned(refresh):
    """Two engines with roots of two kinds, in another order than their states."""
    inner = {"b": runs.shampoo(refresh=refresh), "a": precond.soap(0.1, block_size=4, refresh=refresh)}
    return optax.partition(inner, {"one": "a", "two": "b", "long": "b", "bias": "b"})


WRAPPERS = {
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(1e9), tx),
    "masked": lambda tx: optax.masked(tx, {name: name != "bias" for name in SHAPES}),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_engine_is_found_in_wrappers(name):
    grads = runs.gradients()
    wrapped, state = runs.whole(WRAPPERS[name](runs.shampoo()), grads)
    assert runs.engines(state)[0].host.in_use_from > 0
    assert metric(state, "failed") == 0
    bare, _ = runs.whole(runs.shampoo(), grads)
    for a, b in zip(wrapped, bare, strict=True):
        np.testing.assert_allclose(a["long"], b["long"], rtol=0, atol=1e-12)


def test_two_engines_have_their_own_roots():
    grads = runs.gradients()
    both, _ = runs.whole(partitioned(precond.on_host(N)), grads)
    alone, _ = runs.whole(precond.soap(0.1, block_size=4, refresh=precond.on_host(N)), grads)
    other, _ = runs.whole(runs.shampoo(), grads)
    for x, soap, shampoo in zip(both, alone, other, strict=True):
        np.testing.assert_allclose(x["one"], soap["one"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(x["two"], shampoo["two"], rtol=0, atol=1e-12)


def test_micro_steps_are_no_updates():
    single = runs.gradients(3 * N)
    # By default MultiSteps adds gradients in float32, and what it trains on is another gradient.
    steps = optax.MultiSteps(runs.shampoo(), every_k_schedule=2, accumulator_dtype=np.float64)
    path, state = runs.whole(steps.gradient_transformation(), [g for g in single for _ in range(2)])
    expected, _ = runs.whole(runs.shampoo(), single)
    chex.assert_trees_all_close(path[1::2], expected, rtol=0, atol=1e-15)
    (engine,) = runs.engines(state)
    assert [engine.count, engine.host.captured_at, engine.host.in_use_from] == [3 * N, 3 * N, 2 * N]
    assert metric(state, "failed") == 0


def test_several_updates_between_two_calls_are_told():
    tx, grads = runs.shampoo(2 * N), runs.gradients(6 * N)
    step = runs.stepper(tx)

    def some(params, state, several):
        for g in several:
            params, state = step(params, state, g)
        return params, state

    several = [grads[i : i + N] for i in range(0, len(grads), N)]
    with precond.host_refresh(tx, runs.params_of(), workers=1, updates=N) as refresh:
        _, state = runs.run(tx, several, refresh, step=some)
    (engine,) = runs.engines(state)
    assert [engine.count, engine.host.captured_at, engine.host.in_use_from] == [6 * N, 6 * N, 4 * N]
    assert metric(state, "failed") == 0


def test_the_step_is_compiled_once():
    tx, traced = runs.shampoo(), []

    def update(*given, **extra):
        traced.append(None)
        return tx.update(*given, **extra)

    step = runs.stepper(tx._replace(update=update))
    with precond.host_refresh(tx, runs.params_of(), workers=1) as refresh:
        runs.run(tx, runs.gradients(2 * N + 1), refresh, step=step)
    assert len(traced) == 1


def test_mistakes_are_told():
    params = runs.params_of()
    with pytest.raises(ValueError, match=r"make it with refresh=precond.on_host\(100\)"):
        precond.host_refresh(precond.shampoo(1e-3), params)
    with pytest.raises(ValueError, match="workers=0"):
        precond.host_refresh(runs.shampoo(), params, workers=0)
    injected = optax.inject_hyperparams(precond.shampoo, precond.static_args(precond.shampoo))(
        1e-3, damping=1e-3, refresh=precond.on_host(2)
    )
    with pytest.raises(ValueError, match="hyperparameter of the root is injected"):
        precond.host_refresh(injected, params)
    tx = runs.shampoo()
    with precond.host_refresh(tx, params, workers=1) as refresh:
        with pytest.raises(ValueError, match=r"has 0 parts that are refreshed on the host, where tx has 1"):
            refresh(params)
        with pytest.raises(ValueError, match=r"after jax\.vmap"):
            refresh(jax.vmap(tx.init)(jax.tree.map(lambda x: x[None], params)))
        refresh(tx.init(params))
        jumped = jax.tree.map(lambda x: x + 50 if x.ndim == 0 else x, tx.init(params))
        for _ in range(N - 1):
            refresh(jumped)
        with pytest.raises(ValueError, match=r"updates, where at most 3 were expected"):
            refresh(jumped)

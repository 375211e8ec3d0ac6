"""Several micro-steps are one step of the inner transformation, with the statistics of all of them."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import precond
from precond import replicas
from precond.replicas import gradients, over_devices, over_groups, over_micro_batches
from tests.problem import gradients as problem_gradients

SHAPES = {"kernel": (6, 5), "bias": (5,)}
MICRO = 4


def keep_replicas():
    """A transformation whose state is what it was given as `replicas`."""

    def init(params):
        zero = jax.tree.map(lambda p: jnp.zeros([], p.dtype), params)
        return replicas.Replicas(jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32), zero, zero)

    return optax.GradientTransformationExtraArgs(init, lambda u, s, p=None, *, replicas, **_: (u, replicas))


def stream(steps, seed=0):
    """Gradients, one a micro-step, and stacked `[n, ..]` by step."""
    single = [jax.tree.map(jnp.asarray, g) for g in problem_gradients(SHAPES, steps * MICRO, seed)]
    by_step = [single[i : i + MICRO] for i in range(0, len(single), MICRO)]
    return single, [jax.tree.map(lambda *x: jnp.stack(x), *group) for group in by_step]


def rows(tree, first, last):
    return jax.tree.map(lambda x: x[first:last], tree)


def start():
    return {"kernel": jnp.ones((6, 5)), "bias": jnp.ones(5)}


def run(tx, grads, replicas_of=None):
    params, state = start(), tx.init(start())
    update, path = jax.jit(tx.update), []
    for i, g in enumerate(grads):
        extra = {} if replicas_of is None else {"replicas": replicas_of[i]}
        updates, state = update(g, state, params, **extra)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path, state


def assert_equal(a, b, rtol=1e-12):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=1e-13), a, b)


OPTIMIZERS = {
    "sgd": lambda: precond.adascale(functools.partial(optax.sgd, momentum=0.9), 0.01, MICRO),
    "shampoo": lambda: precond.adascale(functools.partial(precond.shampoo, refresh=2), 0.01, MICRO),
}


@pytest.mark.parametrize("name", ["sgd", pytest.param("shampoo", marks=pytest.mark.slow)])
def test_micro_steps_are_the_step_that_sees_all_gradients(x64, name):
    single, stacks = stream(3)
    means, statistics = zip(*[replicas.stacked(s) for s in stacks], strict=True)
    expected, inner = run(OPTIMIZERS[name](), means, statistics)
    path, state = run(precond.accumulate(OPTIMIZERS[name](), MICRO), single)
    assert_equal(path[MICRO - 1 :: MICRO], expected, rtol=1e-11)
    assert_equal(optax.tree.get(state, "AdascaleState"), optax.tree.get(inner, "AdascaleState"))
    # Nothing moves in between.
    for i in range(1, MICRO):
        assert_equal(path[MICRO - 1 + i], path[MICRO - 1], rtol=0)


def test_statistics_are_those_of_the_stack(x64):
    single, (stack,) = stream(1)
    tx = precond.accumulate(keep_replicas(), MICRO)
    _, state = run(tx, single)
    assert_equal(state.inner, replicas.stacked(stack)[1]._replace(count=MICRO, parts=MICRO))
    assert (int(state.count), int(state.micro_step), int(state.seen)) == (1, 0, 0)
    assert not any(np.any(x) for x in jax.tree.leaves((state.mean, state.deviation)))


def test_micro_steps_may_have_replicas_of_their_own(x64):
    """Two micro-steps of two gradients each are four gradients."""
    _, (stack,) = stream(1)
    two = [replicas.stacked(rows(stack, 0, 2)), replicas.stacked(rows(stack, 2, 4))]
    _, state = run(precond.accumulate(keep_replicas(), 2), *zip(*two, strict=True))
    assert_equal(state.inner, replicas.stacked(stack)[1])


def test_statistics_in_adams_metric(x64):
    single, stacks = stream(6)
    inner = precond.adascale(optax.adam, 0.01, MICRO, power=0.5)
    path, state = run(precond.accumulate(inner, MICRO, metric=replicas.adam_metric), single)
    params, expected = start(), inner.init(start())
    for i, s in enumerate(stacks):
        mean, statistics = replicas.stacked(s, replicas.adam_metric(expected))
        updates, expected = inner.update(mean, expected, params, replicas=statistics)
        params = optax.apply_updates(params, updates)
        assert_equal(path[MICRO * (i + 1) - 1], params, rtol=1e-10)
    assert_equal(state.inner, expected, rtol=1e-10)


def test_the_inner_transformation_runs_once_a_step():
    """What a refresh costs is paid once, where `optax.MultiSteps` pays it in every micro-step."""
    calls = []

    def init(params):
        del params
        return jnp.zeros([], jnp.int32)

    def update(updates, state, params=None, **extra):
        del params, extra
        jax.debug.callback(lambda: calls.append(1))
        return updates, state + 1

    inner = optax.GradientTransformationExtraArgs(init, update)
    single, _ = stream(3)
    _, state = run(precond.accumulate(inner, MICRO), single)
    jax.effects_barrier()
    assert len(calls) == int(state.inner) == int(state.count) == 3


def test_a_micro_step_that_is_not_finite_spoils_its_step_alone():
    single, _ = stream(2)
    tx = precond.accumulate(precond.adascale(optax.sgd, 0.01, MICRO), MICRO)
    _, state = run(tx, [jax.tree.map(lambda g: g * jnp.inf, single[0]), *single[1:]])
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((state.mean, state.deviation)))
    assert int(optax.tree.get(state, "samples")) == 1


def test_one_micro_step_changes_nothing():
    tx, (g, *_) = precond.accumulate(optax.sgd(0.1), 1), stream(1)[0]
    updates, state = tx.update(g, tx.init(start()))
    assert_equal(updates, optax.sgd(0.1).update(g, optax.sgd(0.1).init(start()))[0])
    assert state.count == 1


def test_bfloat16_gradients_are_averaged_in_float32():
    tx = precond.accumulate(optax.identity(), 256)
    g = jnp.asarray([1.0, 1 / 256], jnp.bfloat16)
    state, update = tx.init(g), jax.jit(tx.update)
    for _ in range(256):
        updates, state = update(g, state)
    assert updates.dtype == jnp.bfloat16
    np.testing.assert_array_equal(updates, g)


def test_what_cannot_be_accumulated_says_so():
    with pytest.raises(ValueError, match="every_k=0"):
        precond.accumulate(optax.sgd(0.1), 0)
    tx = precond.accumulate(optax.sgd(0.1), 2)
    summed = replicas.summed(2, 1.0, start())
    with pytest.raises(ValueError, match="each leaf of the gradient"):
        tx.update(start(), tx.init(start()), start(), replicas=summed)
    tx = precond.accumulate(precond.adascale(optax.sgd, 0.1, 4), 1)
    with pytest.raises(ValueError, match="needs the extra argument replicas"):
        tx.update(start(), tx.init(start()), start())


# AdaScale around Shampoo on eight devices, in every kind of loop, against one device that sees all gradients.

STEPS, SCALE = 3, 16
SPEC = {"kernel": P(None, "data"), "bias": P()}


def loss(params, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["kernel"]) + params["bias"] - y) ** 2)


def data():
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((STEPS, 128, 6)), rng.standard_normal((STEPS, 128, 8))
    return [(jnp.asarray(a), jnp.asarray(b)) for a, b in zip(x, y, strict=True)]


def halves():
    """The micro-batches of every step, two each."""
    return [rows(batch, i, i + 64) for batch in data() for i in (0, 64)]


def network():
    rng = np.random.default_rng(4)
    return {"kernel": jnp.asarray(rng.standard_normal((6, 8))), "bias": jnp.zeros(8)}


def shampoo():
    return precond.adascale(functools.partial(precond.shampoo, refresh=2), 0.01, SCALE)


@functools.cache
def on_one_device():
    """Parameters and gains: 16 gradients of 8 examples a step, by a loop."""
    tx, params = shampoo(), network()
    state, gains, update = tx.init(params), [], jax.jit(tx.update)
    each = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))
    for x, y in data():
        mean, statistics = replicas.stacked(each(params, (x.reshape(16, 8, 6), y.reshape(16, 8, 8))))
        updates, state = update(mean, state, params, replicas=statistics)
        params = optax.apply_updates(params, updates)
        gains.append(float(optax.tree.get(state, "gain")))
    return params, gains


def train(step, tx, batches=None, params=None, place=lambda x: x):
    params = network() if params is None else params
    (params, state), gains = place((params, tx.init(params))), []
    for batch in data() if batches is None else batches:
        params, state = step(params, state, batch)
        gains.append(float(optax.tree.get(state, "gain")))
    return params, gains


def one_step(f, tx):
    def step(params, state, batch):
        _, mean, statistics = f(params, batch)
        updates, state = tx.update(mean, state, params, replicas=statistics)
        return optax.apply_updates(params, updates), state

    return step


def assert_as_on_one_device(found, every=1):
    params, gains = on_one_device()
    np.testing.assert_allclose(found[1][every - 1 :: every], gains, rtol=1e-12)
    # Parameters are of size 1; eigendecompositions amplify the rounding in which the programs differ.
    chex.assert_trees_all_close(found[0], params, rtol=1e-10, atol=1e-11)
    assert gains[-1] > 1.5


def test_groups_under_jit_on_eight_devices(x64):
    mesh, tx = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)), shampoo()
    put = functools.partial(jax.device_put, device=jax.NamedSharding(mesh, P("data")))
    everywhere = jax.NamedSharding(mesh, P())
    step = jax.jit(one_step(over_groups(gradients(loss), SCALE), tx), out_shardings=everywhere)
    place = functools.partial(jax.device_put, device=everywhere)  # so that the step is compiled once
    assert_as_on_one_device(train(step, tx, [put(batch) for batch in data()], place=place))


@pytest.mark.slow
def test_fully_sharded_parameters_under_jit_on_eight_devices(x64):
    mesh, tx = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)), shampoo()
    put = functools.partial(jax.device_put, device=jax.NamedSharding(mesh, P("data")))
    params = jax.tree.map(lambda p, s: jax.device_put(p, jax.NamedSharding(mesh, s)), network(), SPEC)
    step = jax.jit(one_step(over_groups(gradients(loss), SCALE), tx))
    assert_as_on_one_device(train(step, tx, [put(batch) for batch in data()], params))


@pytest.mark.slow
@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map_with_micro_batches_on_eight_devices(x64, check_vma):
    mesh, tx = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)), shampoo()
    step = one_step(over_devices(over_micro_batches(gradients(loss), 2), "data"), tx)
    step = jax.shard_map(step, mesh=mesh, in_specs=(P(), P(), P("data")), out_specs=P(), check_vma=check_vma)
    assert_as_on_one_device(train(jax.jit(step), tx))


@pytest.mark.slow
def test_pmap_with_micro_batches_on_eight_devices(x64):
    tx = shampoo()
    step = one_step(over_devices(over_micro_batches(gradients(loss), 2), "data"), tx)
    mapped = jax.pmap(step, axis_name="data", in_axes=(None, None, 0), out_axes=None)
    batches = [jax.tree.map(lambda x: x.reshape(8, 16, -1), batch) for batch in data()]
    assert_as_on_one_device(train(mapped, tx, batches))


def test_accumulated_micro_steps_on_eight_devices(x64):
    """The state carries what the two halves of a step's batch have to say of each other."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    tx = precond.accumulate(shampoo(), 2)
    step = one_step(over_devices(gradients(loss), "data"), tx)
    step = jax.shard_map(step, mesh=mesh, in_specs=(P(), P(), P("data")), out_specs=P())
    place = functools.partial(jax.device_put, device=jax.NamedSharding(mesh, P()))
    assert_as_on_one_device(train(jax.jit(step), tx, halves(), place=place), every=2)


@pytest.mark.slow
def test_accumulated_shards(x64):
    """Inside a shard_map with sharded parameters, norms are those of whole gradients."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    tx = precond.accumulate(precond.adascale(functools.partial(optax.sgd, momentum=0.9), 0.01, SCALE), 2)
    f = over_devices(gradients(loss), "data", specs=SPEC)
    state = jax.eval_shape(tx.init, network())
    specs = jax.tree.map(lambda leaf: P(None, "data") if leaf.shape == (6, 8) else P(), state)
    step = jax.shard_map(one_step(f, tx), mesh=mesh, in_specs=(SPEC, specs, P("data")), out_specs=(SPEC, specs))
    found = train(jax.jit(step), tx, halves())
    whole = precond.adascale(functools.partial(optax.sgd, momentum=0.9), 0.01, SCALE)
    expected = train(jax.jit(one_step(over_groups(gradients(loss), SCALE), whole)), whole)
    np.testing.assert_allclose(found[1][1::2], expected[1], rtol=1e-12)
    assert_equal(found[0], expected[0])


@pytest.mark.parametrize(
    "around",
    [lambda tx: precond.accumulate(tx, 2), precond.large_batches.differenced],
    ids=["accumulate", "differenced"],
)
def test_a_state_of_explicitly_sharded_parameters_keeps_its_types(around):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    tx = around(optax.chain(optax.adam(0.1), precond.scale_by_adascale(0.1, scale=4)))
    with jax.set_mesh(mesh):
        params = {"kernel": jax.device_put(jnp.ones((8, 3)), P("data")), "bias": jnp.ones(3)}
        state = jax.jit(tx.init)(params)
        after = jax.jit(tx.update)(params, state, params)[1]
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)


def test_parameters_that_are_rounded_by_chance_are_rounded_outside():
    rounded = precond.transforms.with_stochastic_rounding
    params = jnp.ones(1000, jnp.bfloat16)
    inside = rounded(optax.sgd(0.1))
    for inner in (inside, optax.chain(inside), optax.masked(inside, True), optax.with_extra_args_support(inside)):
        with pytest.raises(ValueError, match=r"with_stochastic_rounding\(accumulate\(\.\.\)\)"):
            precond.accumulate(inner, 2).init(params)
    tx, state = rounded(precond.accumulate(optax.sgd(1.0), 2)), None
    for step in range(2):
        state = tx.init(params) if state is None else state
        updates, state = tx.update(jnp.full(1000, 1 / 1024), state, params)
        new = optax.apply_updates(params, updates)
        # Nothing moves in the first of two steps, and a quarter is rounded down in the second.
        assert 0.2 * step <= jnp.mean(new < 1) <= 0.3 * step

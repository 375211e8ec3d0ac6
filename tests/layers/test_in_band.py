"""K-FAC in training loops that pass gradients and nothing else: what it does where factors are an argument."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import NamedSharding, PartitionSpec

import precond
from precond import layers
from precond.blocks import Probe
from precond.layers import linen
from precond.layers import nnx as front

N, STEPS = 8, 3
KFAC = functools.partial(precond.kfac, 0.3, damping=0.01, bound=1e-2, refresh=1)


class Net(nn.Module):
    """A layer, two that are scanned, a norm, a layer."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, param_dtype=jnp.float64)(x)
        x, _ = nn.scan(Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)()(x, None)
        return nn.Dense(4, param_dtype=jnp.float64)(nn.LayerNorm(param_dtype=jnp.float64)(x))


class Step(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.tanh(nn.Dense(4, param_dtype=jnp.float64)(x)), None


def data():
    return jnp.asarray(np.random.default_rng(0).standard_normal((N, 4))), jnp.arange(N) % 4


def cross_entropy(logits, y):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1))


@functools.cache
def setting():
    """The capture, parameters, and a function of them to value, gradients and factors."""
    x, _ = data()
    params = jax.jit(Net().init)(jax.random.key(0), x)["params"]
    capture = linen.capture(Net(), {"params": params}, x)
    f = layers.value_grad_factors(
        lambda params, x, y: capture.apply({"params": params}, x),
        lambda logits, x, y: cross_entropy(logits, y),
        capture,
        fisher=layers.empirical(),
    )
    return capture, params, jax.jit(f)


def loss(params, x, y):
    return cross_entropy(setting()[0].apply({"params": params}, x), y)


@functools.cache
def path_with_arguments():
    """The parameters after each step of a loop that passes `factors=`."""
    capture, params, f = setting()
    tx = KFAC(capture.layers, weight_decay=0.1)
    state, update, path = tx.init(params), jax.jit(tx.update), []
    for _ in range(STEPS):
        _, grads, factors = f(params, *data())
        updates, state = update(grads, state, params, factors=factors)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path


def assert_close(actual, expected, atol=1e-12):
    chex.assert_trees_all_close(actual, expected, rtol=0, atol=atol)


def probes_in(tree):
    is_probe = lambda x: isinstance(x, Probe)  # noqa: E731
    return [x for x in jax.tree.leaves(tree, is_leaf=is_probe) if is_probe(x)]


def test_a_train_state_goes_the_path_of_a_loop_that_passes_factors():
    capture, params, _ = setting()
    state = TrainState.create(apply_fn=capture.apply, params=capture.attach(params), tx=KFAC(weight_decay=0.1))

    @jax.jit
    def step(state, x, y):
        def loss(params):
            return cross_entropy(state.apply_fn({"params": params}, x), y)

        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    for expected in path_with_arguments():
        state = step(state, *data())
        assert_close(capture.detach(state.params), expected)
    assert len(probes_in(state.params)) == len(capture.layers)
    assert all(not x.any() for x in jax.tree.leaves(probes_in(state.params)))


FISHERS = {"sampled": layers.sampled(layers.categorical()), "exact": layers.exact(layers.categorical())}


def exactly(name):
    """Of the capture's model, gradients in which the probes have another Fisher matrix; and the same as arguments."""
    capture, _, _ = setting()
    forward = lambda params, x: capture.apply({"params": params}, x)  # noqa: E731
    wrapped = layers.with_fisher(forward, FISHERS[name])
    beside = layers.value_grad_factors(
        lambda params, x, y: forward(params, x),
        lambda logits, x, y: cross_entropy(logits, y),
        capture,
        fisher=FISHERS[name],
    )
    return jax.grad(lambda params, x, y, key: cross_entropy(wrapped(params, x, key=key), y)), beside


@pytest.mark.parametrize("name", [pytest.param("exact", marks=pytest.mark.slow), "sampled"])
def test_probes_have_the_factors_of_another_fisher_matrix_beside_the_gradient_of_the_loss(name):
    capture, params, _ = setting()
    gradient, beside = exactly(name)
    key = jax.random.key(3)
    grads = jax.jit(gradient)(capture.attach(params), *data(), key)
    _, wanted, factors = jax.jit(beside)(params, *data(), key=key)
    assert_close(capture.detach(grads), wanted, 1e-14)
    found = {p.layer: p.factors(1 / p.sums["examples"]) for p in probes_in(grads)}
    assert_close(found, {layer.seen_from(path): factors[path] for path, layer in capture.layers.items()}, 1e-13)


@pytest.mark.slow
def test_multi_steps_average_the_sampled_factors_of_micro_batches():
    capture, params, _ = setting()
    (x, y), (gradient, beside) = data(), exactly("sampled")
    tx = optax.MultiSteps(KFAC(), every_k_schedule=2, accumulator_dtype=jnp.float64)
    state, keys, carried = tx.init(capture.attach(params)), jax.random.split(jax.random.key(3)), capture.attach(params)
    for part, key in zip(range(2), keys, strict=True):
        grads = jax.jit(gradient)(carried, x[4 * part :][:4], y[4 * part :][:4], key)
        updates, state = jax.jit(tx.update)(grads, state, carried)
    halves = [jax.jit(beside)(params, x[4 * i :][:4], y[4 * i :][:4], key=keys[i])[1:] for i in range(2)]
    grads, factors = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    alone = KFAC(capture.layers)
    wanted, _ = jax.jit(alone.update)(grads, alone.init(params), params, factors=factors)
    assert_close(capture.detach(updates), wanted)


def test_multi_steps_average_the_factors_of_micro_batches_to_those_of_the_batch():
    capture, params, _ = setting()
    x, y = data()
    tx = optax.MultiSteps(KFAC(weight_decay=0.1), every_k_schedule=4, accumulator_dtype=jnp.float64)

    @jax.jit
    def step(carry, part):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, *part), state, params)
        return (optax.apply_updates(params, updates), state), None

    params = capture.attach(params)
    parts = x.reshape(4, 2, -1), y.reshape(4, 2)
    carry, _ = jax.lax.scan(step, (params, tx.init(params)), parts)
    assert_close(capture.detach(carry[0]), path_with_arguments()[0])


@pytest.mark.parametrize(
    ("check", "fisher"),
    [(True, "empirical"), *(pytest.param(*x, marks=pytest.mark.slow) for x in [(False, "empirical"), (True, "exact")])],
)
def test_devices_average_the_factors_of_their_parts_to_those_of_the_batch(check, fisher):
    capture, params, f = setting()
    gradient = jax.grad(loss)
    if fisher == "exact":
        own, f = exactly(fisher)
        gradient, f = functools.partial(own, key=None), jax.jit(f)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])

    def local(params, x, y):
        mine = jax.tree.map(lambda p: jax.lax.pcast(p, "data", to="varying"), params) if check else params
        return jax.lax.pmean(gradient(mine, x, y), "data")

    part, everywhere = PartitionSpec("data"), PartitionSpec()
    mapped = jax.shard_map(local, mesh=mesh, in_specs=(everywhere, part, part), out_specs=everywhere, check_vma=check)
    grads = jax.jit(mapped)(capture.attach(params), *data())
    found = {p.layer: p.factors(1 / p.sums["examples"]) for p in probes_in(grads)}
    expected = f(params, *data())[2]
    assert_close(found, {layer.seen_from(path): expected[path] for path, layer in capture.layers.items()}, 1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_a_sharded_batch_goes_the_same_path(kind):
    capture, params, _ = setting()
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,), devices=jax.devices()[:4])
    tx, everywhere = KFAC(weight_decay=0.1, axis="data"), NamedSharding(mesh, PartitionSpec())
    params = jax.device_put(capture.attach(params), everywhere)
    x, y = (jax.device_put(a, NamedSharding(mesh, PartitionSpec("data"))) for a in data())

    @jax.jit
    def step(params, state, x, y):
        updates, state = tx.update(jax.grad(loss)(params, x, y), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    assert any(not x.sharding.is_fully_replicated for x in jax.tree.leaves(state))
    for expected in path_with_arguments():
        params, state = step(params, state, x, y)
        assert_close(capture.detach(params), expected)


def test_a_mapped_model_of_one_example_counts_all_of_them():
    _, params, f = setting()
    x, y = data()
    one = linen.capture(Net(), {"params": params}, x[0], batch=0)
    grads = jax.jit(jax.grad(lambda p: cross_entropy(jax.vmap(lambda x: one.apply({"params": p}, x))(x), y)))(
        one.attach(params)
    )
    found = {p.layer: p.factors(1 / p.sums["examples"]) for p in probes_in(grads)}
    expected = f(params, x, y)[2]
    assert_close(found, {layer.seen_from(path): expected[path] for path, layer in one.layers.items()}, 1e-13)


def test_the_mean_over_tokens_counts_tokens():
    _, params, _ = setting()
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 3, 4)))
    tokens = linen.capture(Net(), {"params": params}, x, batch=2)

    def loss(params):
        return jnp.mean(jax.nn.logsumexp(tokens.apply({"params": params}, x), axis=-1))

    found = probes_in(jax.jit(jax.grad(loss))(tokens.attach(params)))
    flat = linen.capture(Net(), {"params": params}, x.reshape(6, 4))
    f = layers.value_grad_factors(
        lambda params: flat.apply({"params": params}, x.reshape(6, 4)),
        lambda logits: jnp.mean(jax.nn.logsumexp(logits, axis=-1)),
        flat,
        fisher=layers.empirical(),
    )
    expected = jax.jit(f)(params)[2]
    assert_close(
        {p.layer: p.factors(1 / p.sums["examples"]) for p in found},
        {layer.seen_from(path): expected[path] for path, layer in flat.layers.items()},
        1e-13,
    )


class Pair(nnx.Module):
    def __init__(self, rngs):
        self.parts = nnx.List([nnx.Linear(4, 4, rngs=rngs, param_dtype=jnp.float64)])
        self.head = nnx.Linear(4, 4, rngs=rngs, param_dtype=jnp.float64)

    def __call__(self, x):
        return self.head(nnx.tanh(self.parts[0](x)))


def test_an_nnx_optimizer_goes_the_path_of_one_that_is_passed_factors():
    x, y = data()
    model = Pair(nnx.Rngs(0))
    capture = front.capture(model, x)
    tapped = front.attached(model, capture)
    f = layers.value_grad_factors(
        lambda params, rest, x: capture.apply(params, rest, x),
        lambda logits, rest, x: cross_entropy(logits, y),
        capture,
        fisher=layers.empirical(),
        has_aux=True,
    )
    one = nnx.Optimizer(model, KFAC(capture.layers), wrt=nnx.Param)
    two = nnx.Optimizer(tapped, KFAC(), wrt=nnx.Param)

    @nnx.jit
    def with_arguments(model, optimizer):
        _, params, rest = nnx.split(model, nnx.Param, ...)
        _, grads, factors = f(params, rest, x)
        optimizer.update(model, grads, factors=factors)

    @nnx.jit
    def in_band(model, optimizer):
        optimizer.update(model, nnx.grad(lambda model: cross_entropy(model(x), y))(model))

    before = model.head.kernel[...]
    for _ in range(STEPS):
        with_arguments(model, one)
        in_band(tapped, two)
    assert abs(model.head.kernel[...] - before).max() > 1e-2
    for name in ("kernel", "bias"):
        assert_close(getattr(tapped.head, name)[...], getattr(model.head, name)[...])
        assert_close(getattr(tapped.parts[0], name)[...], getattr(model.parts[0], name)[...])
    assert all(not v.any() for v in jax.tree.leaves(probes_in(nnx.state(tapped))))


@pytest.mark.slow
def test_a_partition_gives_probes_to_the_group_of_their_layers():
    capture, params, f = setting()
    params = capture.attach(params)
    labels = {name: jax.tree.map(lambda _: "adam" if name == "Dense_1" else "kfac", params[name]) for name in params}  # noqa: B023
    tx = optax.partition({"kfac": precond.scale_by_kfac(damping=0.01, refresh=1), "adam": optax.scale(2.0)}, labels)
    grads = jax.jit(jax.grad(loss))(params, *data())
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    alone = precond.scale_by_kfac(capture.layers, damping=0.01, refresh=1)
    _, plain, factors = f(capture.detach(params), *data())
    expected, _ = jax.jit(alone.update)(plain, alone.init(plain), factors=factors)
    assert_close(capture.detach(updates), expected | {"Dense_1": optax.tree.scale(2.0, plain["Dense_1"])})


def test_factors_of_other_layers_disturb_nothing_and_those_of_its_own_are_refused():
    capture, params, _ = setting()
    params = capture.attach(params)
    grads = jax.jit(jax.grad(loss))(params, *data())
    tx = precond.scale_by_kfac(damping=0.01, refresh=1)
    state, update = tx.init(params), jax.jit(tx.update)
    alone, beside = (update(grads, state, params, **extra)[0] for extra in ({}, {"factors": {"another": jnp.ones(2)}}))
    chex.assert_trees_all_equal(alone, beside)
    with pytest.raises(ValueError, match="factors= is given, but layers= was not"):
        update(grads, state, params, factors={"Dense_1": jnp.ones(2)})


def test_gradients_that_are_not_of_the_tapped_model_move_nothing_and_are_counted():
    capture, params, _ = setting()
    params, (x, y) = capture.attach(params), data()
    grads = jax.jit(jax.grad(lambda p: cross_entropy(Net().apply({"params": p}, x), y)))(params)
    tx = KFAC(weight_decay=0.1)
    updates, state = jax.jit(tx.update)(grads, tx.init(params), params)
    assert all(not u.any() for u in jax.tree.leaves(updates))
    assert precond.metrics(state)["blocks/skipped"] > 0


def test_hyperparameters_are_injected_and_params_are_mapped():
    capture, params, _ = setting()
    tx = optax.inject_hyperparams(precond.kfac, "refresh")(0.1, damping=0.01)
    state = tx.init(capture.attach(params))
    assert state.hyperparams["damping"] == 0.01
    mapped = optax.tree.map_params(tx, lambda v: v, state)
    chex.assert_trees_all_equal(mapped, state)


def test_errors_say_what_to_do():
    capture, params, f = setting()
    carried = capture.attach(params)
    with pytest.raises(ValueError, match=r"capture\.attach\(params\)"):
        KFAC().init(params)
    with pytest.raises(ValueError, match="leave it out"):
        layers.with_fisher(lambda params: params, layers.empirical())
    with pytest.raises(ValueError, match="leave layers= out"):
        KFAC(capture.layers).init(carried)
    with pytest.raises(ValueError, match="Give layers=, too"):
        KFAC().update(carried, KFAC().init(carried), carried, factors=f(params, *data())[2])
    with pytest.raises(ValueError, match="counts no examples"):
        KFAC().init(capture.attach(params, capture.probes(params)))
    with pytest.raises(ValueError, match="masked in part"):
        optax.masked(KFAC(), jax.tree.map(lambda p: p.ndim > 1, carried)).init(carried)

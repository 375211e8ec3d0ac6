"""AdaScale around K-FAC: gradients, their statistics and the factors of the layers, in every kind of loop."""

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
from precond import layers, replicas
from precond.replicas import gradients_by, over_devices, over_groups, over_micro_batches

pytestmark = pytest.mark.usefixtures("x64")

STEPS, SCALE = 3, 16


def network():
    rng = np.random.default_rng(4)
    one = {"kernel": rng.standard_normal((6, 5)), "bias": np.zeros(5)}
    two = {"kernel": rng.standard_normal((5, 3)) / 2, "bias": np.zeros(3)}
    return jax.tree.map(jnp.asarray, {"one": one, "two": two})


CAPTURE = layers.explicit({"one": layers.dense(), "two": layers.dense()}, jax.eval_shape(network))


def forward(params, x, y):
    del y
    hidden = jnp.tanh(CAPTURE.apply("one", params["one"], x @ params["one"]["kernel"] + params["one"]["bias"], x))
    return CAPTURE.apply("two", params["two"], hidden @ params["two"]["kernel"] + params["two"]["bias"], hidden)


def loss(outputs, x, y):
    del x
    return 0.5 * jnp.mean(jnp.sum((outputs - y) ** 2, -1))


def with_factors(params, batch):
    """The targets of the Fisher matrix are sampled, with a key for each group of 8 examples."""
    x, y, keys = batch
    fisher = layers.sampled(layers.gaussian())
    f = layers.value_grad_factors(forward, loss, CAPTURE, fisher=fisher)
    value, gradient, factors = f(params, x, y, key=jax.random.wrap_key_data(keys[0]))
    return (value, factors), gradient


def data():
    """Of every step 128 examples, and 16 keys."""
    rng = np.random.default_rng(3)
    out = []
    for step in range(STEPS):
        x, y = rng.standard_normal((128, 6)), rng.standard_normal((128, 3))
        keys = jax.random.key_data(jax.random.split(jax.random.key(step), SCALE))
        out.append((jnp.asarray(x), jnp.asarray(y), keys))
    return out


def halves():
    """The micro-batches of every step, two each."""
    return [jax.tree.map(lambda a, i=i: jnp.split(a, 2)[i], batch) for batch in data() for i in (0, 1)]


def kfac():
    make = functools.partial(precond.kfac, layers=CAPTURE.layers, bound=np.inf, damping=0.1, refresh=2)
    return precond.adascale(make, 0.05, SCALE)


def accumulated():
    return precond.accumulate(kfac(), 2, layers=CAPTURE.layers)


@functools.cache
def on_one_device():
    """Parameters and gains: 16 gradients and factors a step, by a loop."""
    tx, params = kfac(), network()
    state, gains, update, f = tx.init(params), [], jax.jit(tx.update), jax.jit(with_factors)
    for x, y, keys in data():
        parts = zip(jnp.split(x, SCALE), jnp.split(y, SCALE), jnp.split(keys, SCALE), strict=True)
        found = [f(params, part) for part in parts]
        mean, statistics = replicas.stacked(jax.tree.map(lambda *g: jnp.stack(g), *[g for _, g in found]))
        factors = jax.tree.map(lambda *a: sum(a) / SCALE, *[factors for (_, factors), _ in found])
        updates, state = update(mean, state, params, replicas=statistics, factors=factors)
        params = optax.apply_updates(params, updates)
        gains.append(float(optax.tree.get(state, "gain")))
    assert gains[-1] > 1.5
    return params, gains


def one_step(f, tx):
    def step(params, state, batch):
        (_, factors), mean, statistics = f(params, batch)
        updates, state = tx.update(mean, state, params, replicas=statistics, factors=factors)
        return optax.apply_updates(params, updates), state

    return step


def train(step, tx, batches, place=lambda x: x):
    params, state = place((network(), tx.init(network())))
    gains = []
    for batch in batches:
        params, state = step(params, state, batch)
        gains.append(float(optax.tree.get(state, "gain")))
    return params, gains


def assert_as_on_one_device(found, every=1):
    params, gains = on_one_device()
    np.testing.assert_allclose(found[1][every - 1 :: every], gains, rtol=1e-12)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13), found[0], params)


def on_eight_devices(spec):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    return jax.NamedSharding(mesh, spec)


def everywhere(tree):
    """From the first step on, so that it is compiled once."""
    return jax.device_put(tree, on_eight_devices(P()))


def in_shard_map(f, tx, check_vma=True):
    mesh = on_eight_devices(P()).mesh
    step = jax.shard_map(one_step(f, tx), mesh=mesh, in_specs=(P(), P(), P("data")), out_specs=P(), check_vma=check_vma)
    return jax.jit(step)


def test_groups_under_jit_with_sharded_batches():
    step = one_step(over_groups(gradients_by(with_factors), SCALE), kfac())
    step = jax.jit(step, out_shardings=on_eight_devices(P()))
    batches = jax.device_put(data(), on_eight_devices(P("data")))
    assert_as_on_one_device(train(step, kfac(), batches, everywhere))


@pytest.mark.slow
@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map_with_micro_batches(check_vma):
    f = over_devices(over_micro_batches(gradients_by(with_factors), 2), "data")
    assert_as_on_one_device(train(in_shard_map(f, kfac(), check_vma), kfac(), data(), everywhere))


@pytest.mark.slow
def test_pmap_with_micro_batches():
    step = one_step(over_devices(over_micro_batches(gradients_by(with_factors), 2), "data"), kfac())
    mapped = jax.pmap(step, axis_name="data", in_axes=(None, None, 0), out_axes=None)
    batches = [jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), batch) for batch in data()]
    assert_as_on_one_device(train(mapped, kfac(), batches))


@pytest.mark.slow
def test_accumulated_micro_steps():
    step = jax.jit(one_step(over_groups(gradients_by(with_factors), SCALE // 2), accumulated()))
    assert_as_on_one_device(train(step, accumulated(), halves()), every=2)


def test_accumulated_micro_steps_on_eight_devices():
    step = in_shard_map(over_devices(gradients_by(with_factors), "data"), accumulated())
    assert_as_on_one_device(train(step, accumulated(), halves(), everywhere), every=2)


def keep_factors():
    """A transformation whose state is what it was given as `factors`, and how often that was None."""

    def init(params):
        del params
        return jax.tree.map(jnp.zeros_like, factors_of(0)), jnp.zeros([], jnp.int32)

    def update(updates, state, params=None, *, factors, **extra):
        del params, extra
        kept = state[0] if factors is None else factors
        return updates, (kept, state[1] + (factors is None))

    return optax.GradientTransformationExtraArgs(init, update)


def factors_of(seed):
    rng = np.random.default_rng(seed)

    def symmetric(d):
        x = rng.standard_normal((1, d, d))
        return jnp.asarray(x + x.transpose(0, 2, 1))

    return {
        "one": layers.LayerFactors(symmetric(7), symmetric(5)),
        "two": layers.LayerFactors(symmetric(6), symmetric(3)),
    }


@pytest.mark.parametrize("given", [(0, 1, 2), (None, 1, 2), (0, None, None), (0, 1, None), (None, None, None)], ids=str)
def test_factors_are_averaged_over_the_micro_steps_that_have_any(given):
    tx, params = precond.accumulate(keep_factors(), 3, layers=CAPTURE.layers), network()
    state, update = tx.init(params), jax.jit(tx.update)
    there = [factors_of(seed) for seed in given if seed is not None]
    for _ in range(2):  # the second step finds nothing of the first
        for seed in given:
            _, state = update(params, state, factors=None if seed is None else factors_of(seed))
        kept, without = state.inner
        assert int(state.captured) == 0
        if there:
            mean = jax.tree.map(lambda *x: sum(x) / len(x), *there)
            jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-13, atol=1e-13), kept, mean)
            assert without == 0
        else:
            assert not any(np.any(x) for x in jax.tree.leaves(kept))
    assert there or without == 2


def test_factors_that_are_not_finite_spoil_their_step_alone():
    tx, params = precond.accumulate(keep_factors(), 2, layers=CAPTURE.layers), network()
    state = tx.init(params)
    for factors in (jax.tree.map(lambda x: x * jnp.nan, factors_of(0)), factors_of(1), factors_of(2), factors_of(2)):
        _, state = tx.update(params, state, factors=factors)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-13), state.inner[0], factors_of(2))


def test_factors_have_the_shapes_of_the_captured_ones():
    _, _, captured = jax.eval_shape(
        layers.value_grad_factors(forward, loss, CAPTURE, fisher=layers.empirical()),
        jax.eval_shape(network),
        *data()[0][:2],
    )
    zeros = precond.accumulate(optax.identity(), 2, layers=CAPTURE.layers).init(network()).factors
    assert jax.tree.map(jnp.shape, zeros) == jax.tree.map(jnp.shape, captured)


def test_a_state_with_factors_is_like_others():
    params, tx = network(), accumulated()
    state = tx.init(params)
    after = jax.eval_shape(lambda g, s, p: tx.update(g, s, p, factors=factors_of(0))[1], params, state, params)
    types = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)  # noqa: E731
    assert types(after) == types(jax.eval_shape(tx.init, params))
    mapped = optax.tree.map_params(tx, lambda x: x, state)
    chex.assert_trees_all_equal(mapped, state)


def test_what_cannot_be_accumulated_says_so():
    params = network()
    tx = precond.accumulate(kfac(), 2)
    with pytest.raises(ValueError, match=r"layers=capture\.layers"):
        tx.update(params, tx.init(params), params, factors=factors_of(0))
    tx = accumulated()
    with pytest.raises(TypeError, match="factors="):
        tx.update(params, tx.init(params), params)
    with pytest.raises(ValueError, match=r"'two'.*the same capture"):
        tx.update(params, tx.init(params), params, factors={"one": factors_of(0)["one"]})
    measured = {k: f._replace(moments=f.inputs) for k, f in factors_of(0).items()}
    with pytest.raises(ValueError, match="come with second moments"):
        tx.update(params, tx.init(params), params, factors=measured)


@pytest.mark.parametrize("groups", [None, lambda tree: jax.tree.map(lambda x: x.ndim, tree)])
def test_probes_are_no_part_of_the_gain(groups):
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
    capture = precond.layers.explicit({"": precond.layers.dense()}, params)
    x = jax.random.normal(jax.random.key(0), (4, 8, 3))

    def loss(params, x):
        y = capture.apply("", params, x @ params["kernel"] + params["bias"], x)
        return jnp.mean(capture.counted(params, y) ** 2)

    def gains(params, each):
        mean, replicas = precond.replicas.stacked(each)
        tx = optax.chain(optax.sgd(1.0), precond.scale_by_adascale(0.1, scale=4, groups=groups))
        _, state = tx.update(mean, tx.init(params), params, replicas=replicas)
        updates, state = tx.update(mean, state, params, replicas=replicas)
        return state[1].gain, updates

    probed = capture.attach(params)
    grads = lambda params: jax.vmap(lambda x: jax.grad(loss)(params, x))(x)  # noqa: E731
    (gain, updates), (expected, plain) = gains(probed, grads(probed)), gains(params, grads(params))
    assert 1 < gain < 4
    assert gain == expected
    chex.assert_trees_all_equal(capture.detach(updates), plain)
    assert all(not np.any(x) for x in jax.tree.leaves(updates["_kfac"]))

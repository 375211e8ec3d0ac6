"""Factors are the same through every transformation of JAX that a training step may use."""

import contextlib
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import precond
from precond import layers
from precond.layers import linen

F64 = {"param_dtype": jnp.float64}
N = 8
SHARING = [("Dense_0", layers.doubly_factored(2)), ("Conv_0", layers.reduce)]


class Net(nn.Module):
    """A dense layer of three factors, a norm, a convolution of averages, a dense layer of two factors."""

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm(**F64)(nn.tanh(nn.Dense(4, **F64)(x)))
        x = nn.tanh(nn.Conv(3, (2,), **F64)(x))
        return nn.Dense(2, **F64)(x.mean(-2))


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


X, Y = normal(N, 5, 4), jnp.arange(N) % 2


def loss(logits, x, y):
    del x
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[..., None], axis=-1))


@pytest.fixture
def setting(quick_float64):
    return plain_step()


@functools.cache
def plain_step():
    """Parameters, the capture, and value, gradients and factors of a plain step with the empirical Fisher matrix."""
    params = jax.jit(Net().init)(jax.random.key(0), X)["params"]
    capture = linen.capture(Net(), {"params": params}, X, sharing=SHARING)
    f = layers.value_grad_factors(forward(capture), loss, capture, fisher=layers.empirical())
    return params, capture, jax.jit(f)(params, X, Y)


def forward(capture):
    return lambda params, x, y: capture.apply({"params": params}, x)


def assert_same(actual, expected):
    chex.assert_trees_all_close(actual, expected, rtol=0, atol=1e-13)


@pytest.mark.slow
def test_remat(setting):
    params, capture, expected = setting
    f = layers.value_grad_factors(jax.checkpoint(forward(capture)), loss, capture, fisher=layers.empirical())
    assert_same(jax.jit(f)(params, X, Y), expected)


def test_a_model_of_one_example_that_is_mapped(setting):
    params, _, expected = setting
    one = linen.capture(Net(), {"params": params}, X[0], batch=0, sharing=SHARING)

    def each(params, x, y):
        return jax.vmap(lambda x: one.apply({"params": params}, x))(x)

    f = layers.value_grad_factors(each, loss, one, fisher=layers.empirical())
    assert_same(jax.jit(f)(params, X, Y), expected)


def test_a_scan_over_microbatches_averages(setting):
    """Factors of equal parts of a batch average to those of the batch, as gradients do."""
    params, capture, expected = setting
    f = layers.value_grad_factors(forward(capture), loss, capture, fisher=layers.empirical())

    @jax.jit
    def accumulated(params):
        parts = X.reshape(4, 2, 5, 4), Y.reshape(4, 2)
        return jax.tree.map(lambda x: x.mean(0), jax.lax.map(lambda part: f(params, *part), parts))

    assert_same(accumulated(params), expected)


def test_two_calls_of_a_layer_count_as_two_positions(setting):
    del setting
    layer = nn.Dense(4, **F64)

    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            shared = nn.Dense(4, name="shared", **F64)
            return shared(x[:, 0]), shared(x[:, 1])

    params = jax.jit(layer.init)(jax.random.key(0), X)["params"]
    x = X[:, :2]
    found = []
    for model, tree in ((Twice(), {"shared": params}), (layer, params)):
        capture = linen.capture(model, {"params": tree}, x)
        f = layers.value_grad_factors(
            lambda params, x, capture=capture: jnp.concatenate(
                [y.reshape(N, -1) for y in jax.tree.leaves(capture.apply({"params": params}, x))], axis=1
            ),
            lambda outputs, x: jnp.mean(outputs),
            capture,
            fisher=layers.exact(layers.gaussian()),
        )
        found.append(next(iter(jax.jit(f)(tree, x)[2].values())))
    assert_same(*found)


def test_a_shard_map_whose_loss_is_an_average(setting, mesh):
    params, capture, _ = setting
    part, everywhere = PartitionSpec("data"), PartitionSpec()
    for fisher in (layers.empirical(), layers.exact(layers.categorical())):

        def mean(*args):
            return jax.lax.pmean(loss(*args), "data")

        f = layers.value_grad_factors(forward(capture), mean, capture, fisher=fisher)
        g = layers.value_grad_factors(forward(capture), loss, capture, fisher=fisher)
        mapped = jax.shard_map(f, mesh=mesh, in_specs=(everywhere, part, part), out_specs=everywhere)
        assert_same(jax.jit(mapped)(params, X, Y), jax.jit(g)(params, X, Y))


def mesh_of(kind):
    return jax.make_mesh((4,), ("data",), axis_types=(kind,), devices=jax.devices()[:4])


@pytest.fixture
def mesh():
    return mesh_of(AxisType.Auto)


FISHERS = {"empirical": layers.empirical(), "exact": layers.exact(layers.categorical())}


@pytest.mark.parametrize(
    ("kind", "fisher", "known"),
    [
        (AxisType.Auto, "empirical", False),
        (AxisType.Explicit, "exact", False),
        pytest.param(AxisType.Auto, "exact", True, marks=pytest.mark.slow),
        pytest.param(AxisType.Explicit, "empirical", True, marks=pytest.mark.slow),
    ],
)
def test_a_sharded_batch(setting, kind, fisher, known):
    """On a mesh that is known from the arrays alone, or from the context too."""
    params, capture, _ = setting
    f = jax.jit(layers.value_grad_factors(forward(capture), loss, capture, fisher=FISHERS[fisher]))
    expected, mesh = f(params, X, Y), mesh_of(kind)
    x, y = (jax.device_put(a, NamedSharding(mesh, PartitionSpec("data"))) for a in (X, Y))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    with jax.set_mesh(mesh) if known else contextlib.nullcontext():
        assert_same(f(params, x, y), expected)


def test_pmap(setting):
    params, capture, expected = setting
    f = layers.value_grad_factors(forward(capture), loss, capture, fisher=layers.empirical())
    mapped = jax.pmap(
        lambda params, x, y: jax.lax.pmean(f(params, x, y), "data"),
        axis_name="data",
        in_axes=(None, 0, 0),
        devices=jax.devices()[:4],
    )
    found = mapped(params, X.reshape(4, 2, 5, 4), Y.reshape(4, 2))
    assert_same(jax.tree.map(lambda x: x[0], found), expected)


def test_factors_are_made_beside_the_training_on_another_device(setting):
    params, capture, _ = setting
    # Not jitted, so that every array says where it was made.
    f = layers.factors_alone(forward(capture), capture, fisher=FISHERS["exact"])
    here, there = jax.devices()[0], jax.devices()[3]
    made = f(*jax.device_put((params, X, Y), there))
    assert {x.device for x in jax.tree.leaves(made)} == {there}
    assert_same(jax.device_put(made, here), f(params, X, Y))


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return nn.tanh(nn.Dense(4, **F64)(x)), None


class Stacked(nn.Module):
    """Three layers, by a loop or by a scan."""

    scan: bool
    remat: bool = False

    @nn.compact
    def __call__(self, x):
        layer = nn.remat(Layer, prevent_cse=False) if self.remat else Layer
        if self.scan:
            return nn.scan(layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)()(x, None)[0]
        for i in range(3):
            x, _ = layer(name=f"layer_{i}")(x)
        return x


@pytest.mark.parametrize("remat", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_scan_over_layers(setting, remat):
    del setting
    x = X.astype(jnp.float64)
    params = jax.jit(Stacked(scan=False).init)(jax.random.key(0), x)["params"]
    stack = {"ScanLayer_0": jax.tree.map(lambda *x: jnp.stack(x), *(params[f"layer_{i}"] for i in range(3)))}
    found = []
    for scan, tree in ((False, params), (True, stack)):
        model = Stacked(scan, remat)
        if scan and remat:
            tree = {"ScanCheckpointLayer_0": tree["ScanLayer_0"]}
        capture = linen.capture(model, {"params": tree}, x)
        f = layers.value_grad_factors(
            forward(capture), lambda y, *_: jnp.mean(y.sum(1) ** 2), capture, fisher=layers.empirical()
        )
        found.append(list(jax.jit(f)(tree, x, Y)[2].values()))
    loop, (scanned,) = found
    assert_same(scanned, jax.tree.map(lambda *x: jnp.concatenate(x), *loop))


@pytest.mark.parametrize("check", [True, False])
def test_a_shard_map_whose_results_are_averaged(setting, mesh, check):
    params, capture, expected = setting
    f = layers.value_grad_factors(forward(capture), loss, capture, fisher=layers.empirical())

    def local(params, x, y):
        # What is replicated must be said to differ, or the transpose sums gradients over devices by itself.
        mine = jax.tree.map(lambda p: jax.lax.pcast(p, "data", to="varying"), params) if check else params
        return jax.lax.pmean(f(mine, x, y), "data")

    spec = PartitionSpec("data")
    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=(PartitionSpec(), spec, spec), out_specs=PartitionSpec(), check_vma=check
    )
    assert_same(jax.jit(mapped)(params, X, Y), expected)


def test_parameters_that_are_sharded_over_another_axis_than_the_batch(setting):
    """On an explicit mesh, where arrays say how they are sharded: from the capture to the direction."""
    del setting
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2, devices=jax.devices()[:4])
    model, x = nn.Dense(6, **F64), X[:, 0]
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]

    def put(x, *spec):
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))

    def run(params, x):
        capture = linen.capture(model, {"params": params}, x)
        forward = lambda params, x: capture.apply({"params": params}, x)  # noqa: E731
        f = layers.value_grad_factors(
            forward, lambda y, x: jnp.mean(jnp.sum(y**2, -1)), capture, fisher=layers.empirical()
        )
        tx = precond.scale_by_kfac(capture.layers, damping=0.1, refresh=1)
        state = tx.init(params)
        _, grads, factors = jax.jit(f)(params, x)
        return jax.jit(tx.update)(grads, state, factors=factors)[0]

    sharded = {"kernel": put(params["kernel"], None, "model"), "bias": put(params["bias"], "model")}
    wanted = run(params, x)
    assert_same(run(sharded, put(x, "data")), wanted)
    # Over the batch's axis, which the model itself would not take: the direction alone.
    tx = precond.scale_by_kfac(linen.capture(model, {"params": params}, x).layers)
    tx.init({"kernel": put(params["kernel"], "data"), "bias": put(params["bias"])})

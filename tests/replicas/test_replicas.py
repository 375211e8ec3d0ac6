"""One mean and one spread, however a batch is split: a loop over its parts is the definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from precond import replicas
from precond.replicas import gradients, gradients_by, over_devices, over_groups, over_micro_batches

pytestmark = pytest.mark.usefixtures("x64")

PARTS = 8
SHARED = {"up": P(), "bias": P(), "down": P()}
FSDP = {"up": P(None, "data"), "bias": P(), "down": P("data")}
TENSOR = {"up": P(None, "model"), "bias": P("model"), "down": P("model", None)}
MIXED = {"up": P("data", "model"), "bias": P("model"), "down": P("model", "data")}


def problem():
    rng = np.random.default_rng(0)
    shapes = {"up": (8, 16), "bias": (16,), "down": (16, 8)}
    params = {name: jnp.asarray(rng.standard_normal(shape)) for name, shape in shapes.items()}
    return params, (jnp.asarray(rng.standard_normal((64, 8))), jnp.asarray(rng.standard_normal((64, 8))))


def loss(params, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["up"] + params["bias"]) @ params["down"] - y) ** 2)


VALUE_AND_GRAD = jax.jit(jax.value_and_grad(loss))


def split_loss(params, batch):
    """The same with the hidden units split over the devices of `model`."""
    x, y = batch
    partial = jnp.tanh(x @ params["up"] + params["bias"]) @ params["down"]
    return jnp.mean((jax.lax.psum(partial, "model") - y) ** 2)


def by_hand(metric=None, parts=PARTS):
    """Value, mean, sums of squares and deviations by leaf, from a loop."""
    params, batch = problem()
    each = [VALUE_AND_GRAD(params, p) for p in zip(*(jnp.split(x, parts) for x in batch), strict=True)]
    mean = jax.tree.map(lambda *g: sum(g) / parts, *[g for _, g in each])

    def square(tree):
        return jax.tree.map(lambda x: np.sum(np.asarray(x) ** 2), tree if metric is None else metric(tree))

    def total(trees):
        return jax.tree.map(lambda *x: sum(x), *[square(t) for t in trees])

    apart = [jax.tree.map(jnp.subtract, g, mean) for _, g in each]
    return sum(v for v, _ in each) / parts, mean, total([g for _, g in each]), total(apart), square(mean)


def assert_agrees(found, metric=None, parts=PARTS):
    value, mean, statistics = found
    expected_value, expected_mean, sums, deviation, square = by_hand(metric, parts)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-14)
    assert int(statistics.count) == int(statistics.parts) == parts
    close(value, expected_value)
    jax.tree.map(close, mean, expected_mean)
    jax.tree.map(close, statistics.sums, sums)
    jax.tree.map(close, statistics.deviation, deviation)
    jax.tree.map(close, statistics.square, square)


def weights(tree):
    """An elementwise metric that is not the identity."""
    return jax.tree.map(lambda x: 1 / (0.5 + jnp.abs(x)), tree)


def by_weights(own):
    return lambda g: jax.tree.map(jnp.multiply, own, g)


def mesh_of(shape, names, kind=AxisType.Auto):
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(names))


def in_shard_map(f, mesh, specs, check_vma=True, batch=P("data")):
    return jax.jit(
        jax.shard_map(f, mesh=mesh, in_specs=(specs, batch), out_specs=(P(), specs, P()), check_vma=check_vma)
    )(*problem())


# Where nothing is tracked, `test_pmap` and the model whose specs alone tell stand for the others.
UNTRACKED = pytest.param(False, marks=pytest.mark.slow, id="untracked")
tracking = pytest.mark.parametrize("check_vma", [pytest.param(True, id="tracked"), UNTRACKED])


def test_a_stack_of_gradients():
    params, batch = problem()
    parts = jax.tree.map(lambda x: x.reshape(PARTS, -1, *x.shape[1:]), batch)
    stack = jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, parts)
    assert_agrees((loss(params, batch), *replicas.stacked(stack)))
    assert_agrees(
        (loss(params, batch), *replicas.stacked(stack, by_weights(weights(params)))), by_weights(weights(params))
    )


def test_sums_made_by_hand():
    _, mean, sums, deviation, _ = by_hand()
    by_leaf = replicas.summed(PARTS, sums, mean)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10), by_leaf.deviation, deviation)
    whole = replicas.summed(PARTS, sum(jax.tree.leaves(sums)), mean)
    np.testing.assert_allclose(whole.deviation, sum(jax.tree.leaves(deviation)), rtol=1e-10)


@pytest.mark.parametrize("metric", [None, "weights"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda f: over_groups(f, 8),
        lambda f: over_micro_batches(f, 8),
        lambda f: over_micro_batches(over_groups(f, 2), 4),
        lambda f: over_groups(over_micro_batches(f, 4), 2),
    ],
    ids=["groups", "micro_batches", "groups_in_micro_batches", "micro_batches_in_groups"],
)
def test_on_one_device(wrap, metric):
    params, batch = problem()
    metric = metric and by_weights(weights(params))
    assert_agrees(jax.jit(wrap(gradients(loss, metric=metric)))(params, batch), metric)


# Sharded parameters, below, are on automatic meshes.
@pytest.mark.parametrize(
    "kind", [pytest.param(AxisType.Auto, marks=pytest.mark.slow), AxisType.Explicit], ids=["auto", "explicit"]
)
def test_groups_under_jit_with_a_sharded_batch(kind):
    mesh = mesh_of((8,), ("data",), kind)
    params, batch = problem()
    batch = jax.device_put(batch, NamedSharding(mesh, P("data")))
    params = jax.device_put(params, NamedSharding(mesh, P()))
    with jax.set_mesh(mesh):
        step = jax.jit(over_groups(gradients(loss), 8))
        assert_agrees(step(params, batch))
        text = step.lower(params, batch).compile().as_text()
    # Each device makes the gradients of its own groups: no gradient, and no batch, is gathered.
    assert "all-reduce" in text
    assert "all-gather" not in text


@pytest.mark.parametrize("specs", [FSDP, TENSOR, MIXED], ids=["fsdp", "tensor", "mixed"])
def test_groups_under_jit_with_sharded_parameters(specs):
    mesh = mesh_of((4, 2), ("data", "model"))
    params, batch = problem()
    params = jax.tree.map(lambda p, s: jax.device_put(p, NamedSharding(mesh, s)), params, specs)
    batch = jax.device_put(batch, NamedSharding(mesh, P("data")))
    assert_agrees(jax.jit(over_groups(gradients(loss), 8))(params, batch))


@tracking
@pytest.mark.parametrize("inner", [lambda f: f, lambda f: over_micro_batches(f, 2), lambda f: over_groups(f, 2)])
def test_devices_that_share_the_parameters(inner, check_vma):
    f = over_devices(inner(gradients(loss)), "data")
    parts = PARTS if inner(gradients(loss)).count() == 1 else 2 * PARTS
    assert_agrees(in_shard_map(f, mesh_of((8,), ("data",)), SHARED, check_vma), parts=parts)


@tracking
def test_micro_batches_around_devices(check_vma):
    params, (x, y) = problem()
    # The k-th micro-batch of all devices together is the k-th of the parts of an eighth of the batch.
    order = np.arange(64).reshape(2, 4, 8).swapaxes(0, 1).ravel()
    f = over_micro_batches(over_devices(gradients(loss), "data"), 2)
    step = jax.shard_map(
        f, mesh=mesh_of((4,), ("data",)), in_specs=(P(), P("data")), out_specs=P(), check_vma=check_vma
    )
    assert_agrees(jax.jit(step)(params, (x[order], y[order])))


@tracking
def test_two_axes_of_devices(check_vma):
    f = over_devices(gradients(loss), ("hosts", "data"))
    mesh = mesh_of((2, 4), ("hosts", "data"))
    assert_agrees(in_shard_map(f, mesh, SHARED, check_vma, batch=P(("hosts", "data"))))


def test_pmap():
    params, batch = problem()
    batch = jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), batch)
    f = over_devices(gradients(loss), "data")
    found = jax.pmap(f, axis_name="data", in_axes=(None, 0))(params, batch)
    assert_agrees(jax.tree.map(lambda x: x[0], found))
    assert_agrees(jax.tree.map(lambda x: x[7], found))


@tracking
@pytest.mark.parametrize("weighted", [False, True])
def test_fully_sharded_parameters(weighted, check_vma):
    params, _ = problem()
    metric = by_weights(weights(params)) if weighted else None

    def f(own, batch):
        # Elementwise, a metric is sharded as the parameters are.
        inside = gradients(loss, metric=by_weights(weights(own)) if weighted else None)
        return over_devices(inside, "data", specs=FSDP)(own, batch)

    assert_agrees(in_shard_map(f, mesh_of((8,), ("data",)), FSDP, check_vma), metric)


@tracking
@pytest.mark.parametrize("outside", [False, True])
def test_fully_sharded_parameters_and_micro_batches(outside, check_vma):
    params, (x, y) = problem()
    if outside:
        f = over_micro_batches(over_devices(gradients(loss), "data", specs=FSDP), 2)
        order = np.arange(64).reshape(2, 4, 8).swapaxes(0, 1).ravel()
        x, y = x[order], y[order]
    else:
        f = over_devices(over_micro_batches(gradients(loss), 2), "data", specs=FSDP)
    step = jax.shard_map(
        f, mesh=mesh_of((4,), ("data",)), in_specs=(FSDP, P("data")), out_specs=(P(), FSDP, P()), check_vma=check_vma
    )
    assert_agrees(jax.jit(step)(params, (x, y)))


@tracking
def test_parameters_sharded_over_one_of_two_axes_of_the_batch(check_vma):
    f = over_devices(gradients(loss), ("hosts", "data"), specs=FSDP)
    mesh = mesh_of((2, 4), ("hosts", "data"))
    assert_agrees(in_shard_map(f, mesh, FSDP, check_vma, batch=P(("hosts", "data"))))


@pytest.mark.parametrize("specs", [TENSOR, MIXED], ids=["tensor", "tensor_and_fsdp"])
@pytest.mark.parametrize("weighted", [False, True])
def test_shards_of_a_model(specs, weighted):
    params, _ = problem()

    def f(own, batch):
        inside = over_micro_batches(gradients(split_loss), 2)
        if weighted:
            inside = gradients(split_loss, metric=by_weights(weights(own)))
        return over_devices(inside, "data", specs=specs)(own, batch)

    metric = by_weights(weights(params)) if weighted else None
    assert_agrees(in_shard_map(f, mesh_of((4, 2), ("data", "model")), specs), metric, parts=4 if weighted else 8)


def test_shards_of_a_model_alone():
    f = over_micro_batches(gradients(split_loss), 8)
    assert_agrees(in_shard_map(f, mesh_of((2,), ("model",)), TENSOR, batch=P()))


@jax.custom_vjp
def sum_over_model(x):
    """Where nothing is tracked, `psum` is its own transpose, and a model's author writes the right one."""
    return jax.lax.psum(x, "model")


sum_over_model.defvjp(lambda x: (sum_over_model(x), None), lambda _, g: (g,))


def test_shards_of_a_model_where_only_specs_tell():
    def untracked_loss(params, batch):
        x, y = batch
        return jnp.mean((sum_over_model(jnp.tanh(x @ params["up"] + params["bias"]) @ params["down"]) - y) ** 2)

    f = over_devices(gradients(untracked_loss), "data", specs=MIXED)
    mesh = mesh_of((4, 2), ("data", "model"))
    assert_agrees(in_shard_map(f, mesh, MIXED, check_vma=False), parts=4)


def test_devices_reduce_the_gradients_once_and_all_scalars_once():
    f = over_devices(over_micro_batches(gradients(loss), 2), "data")
    step = jax.jit(jax.shard_map(f, mesh=mesh_of((8,), ("data",)), in_specs=(P(), P("data")), out_specs=P()))
    jax.config.update("jax_disable_most_optimizations", False)  # which joins the reductions; the fixture resets it
    text = step.lower(*problem()).compile().as_text()
    assert text.count(" all-reduce(") == 2
    assert "all-gather" not in text


def test_what_a_loss_returns_beside_its_value_is_averaged_too():
    def with_aux(params, batch):
        return loss(params, batch), {"rows": jnp.sum(batch[0], axis=0), "one": jnp.ones(())}

    f = over_devices(over_micro_batches(over_groups(gradients(with_aux, has_aux=True), 2), 2), "data")
    step = jax.shard_map(f, mesh=mesh_of((4,), ("data",)), in_specs=(P(), P("data")), out_specs=P())
    (value, aux), _, _ = jax.jit(step)(*problem())
    np.testing.assert_allclose(value, loss(*problem()), rtol=1e-12)
    np.testing.assert_allclose(aux["rows"], problem()[1][0].sum(0) / 16, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(aux["one"], 1)


def test_adams_metric_measures_what_adam_steps():
    params, batch = problem()
    tx = optax.adam(1.0, b1=0.0)
    state = tx.init(params)
    gradient = jax.grad(loss)(params, batch)
    for step in range(6):
        metric = replicas.adam_metric(state)
        expected = gradient if step < 5 else jax.tree.map(jnp.negative, tx.update(gradient, state)[0])
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9), metric(gradient), expected)
        _, state = tx.update(gradient, state)


def test_statistics_do_not_cancel_in_float32():
    """Where noise is a hundred-thousandth of the gradient, sums of squares know nothing of it."""
    rng = np.random.default_rng(1)
    apart = rng.standard_normal((8, 1000))
    apart -= apart.mean(0)
    _, found = replicas.stacked(jnp.asarray(1000 + 0.01 * apart, jnp.float32))
    np.testing.assert_allclose(found.deviation, np.sum((0.01 * apart) ** 2), rtol=1e-2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_gradients_keep_their_dtype_and_sums_are_float32(dtype):
    params, batch = jax.tree.map(lambda x: x.astype(dtype), problem())
    _, mean, statistics = jax.eval_shape(over_micro_batches(over_groups(gradients(loss), 2), 2), params, batch)
    assert {x.dtype for x in jax.tree.leaves(mean)} == {jnp.dtype(dtype)}
    assert {x.dtype for x in jax.tree.leaves(statistics.deviation)} == {jnp.dtype("float32")}


def refused(f, match, specs=SHARED, batch=P("data")):
    with pytest.raises(ValueError, match=match):
        in_shard_map(f, mesh_of((8,), ("data",)), specs, batch=batch)


def test_misuse_is_refused():
    params, batch = problem()
    refused(gradients(loss), r"sum over the devices.*over_devices")
    refused(gradients_by(jax.value_and_grad(loss)), r"sum over the devices.*over_devices")
    refused(over_micro_batches(gradients(loss), 2), r"sum over the devices.*over_devices")
    refused(
        over_devices(gradients(lambda p, b: jax.lax.pmean(loss(p, b), "data")), "data"), "averaged over them already"
    )
    refused(over_devices(gradients(loss), "data"), r"batch is the same on all devices", batch=P())
    refused(over_devices(gradients(loss), "data"), r"params\['down'\] varies.*specs=", specs=FSDP)
    refused(over_devices(gradients(loss), "data", specs=FSDP), r"varies over the mesh axes \[\]")
    refused(over_devices(gradients(loss), "model"), "no such axis")
    refused(over_devices(over_devices(gradients(loss), "data"), "data"), "both mesh axes")
    refused(over_devices(gradients(loss), "data", specs=P("data", "data")), "one dimension")
    with pytest.raises(ValueError, match="no such axis"):
        over_devices(gradients(loss), "data")(params, batch)
    for wrap, name in ((over_groups, "groups"), (over_micro_batches, "steps")):
        with pytest.raises(ValueError, match=f"{name}=7 must divide"):
            wrap(gradients(loss), 7)(params, batch)
        with pytest.raises(ValueError, match=f"{name}=0"):
            wrap(gradients(loss), 0)
    with pytest.raises(ValueError, match="leading axes"):
        replicas.stacked({"a": jnp.ones((2, 3)), "b": jnp.ones((3, 3))})
    with pytest.raises(ValueError, match="structure"):
        replicas.summed(2, {"a": 1.0, "b": 2.0}, {"c": jnp.ones(2), "d": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"found 0 states of optax\.scale_by_adam"):
        replicas.adam_metric(optax.sgd(0.1).init(params))


def test_the_sum_over_devices_that_is_refused_is_what_jax_makes():
    """The trap this guards: a pmean of it is the sum again."""
    params, batch = problem()

    def naive(params, batch):
        return jax.tree.map(lambda g: jax.lax.pmean(g, "data"), jax.grad(loss)(params, batch))

    step = jax.shard_map(naive, mesh=mesh_of((8,), ("data",)), in_specs=(P(), P("data")), out_specs=P())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, 8 * b, rtol=1e-9, atol=1e-12), step(params, batch), by_hand()[1]
    )

"""A run that is saved by Orbax in its middle and restored goes on bit for bit, with linen and with nnx."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import precond

IN, HIDDEN, OUT = 4, 6, 3
SAVED, LAST = 7, 12  # the period is 5: the root of the last turn has not come round at step 7

TURNS = precond.every(5, stagger=True)
OPTIMIZERS = {
    "shampoo": lambda: precond.shampoo(1e-2, refresh=TURNS, block_size=3, weight_decay=1e-3),
    "soap": lambda: precond.soap(1e-2, refresh=TURNS._replace(delay=1, warmup=1), block_size=3),
}


def of(*quick):
    """Run a test for each optimizer; only the named ones are quick. Each is quick with one of the two libraries."""
    cases = [pytest.param(f, id=n, marks=[pytest.mark.slow] * (n not in quick)) for n, f in OPTIMIZERS.items()]
    return pytest.mark.parametrize("make", cases)


def batch(step):
    rng = np.random.default_rng(step)
    x = rng.standard_normal((8, IN), np.float32)
    return jnp.asarray(x), jnp.asarray(np.sin(x[:, :OUT]))


def arrays(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(arrays(actual), arrays(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def abstract(tree, sharding=None):
    """What to restore into: shapes, dtypes and where to put the arrays."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0]) if sharding is None else sharding
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)


def save(path, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path / "run", tree)


def restore(path, target):
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path / "run", target)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(OUT)(nn.tanh(nn.Dense(HIDDEN)(x)))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(IN, HIDDEN, rngs=rngs)
        self.second = nnx.Linear(HIDDEN, OUT, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.tanh(self.first(x)))


@functools.cache
def linen_start(make):
    model = Linen()
    params = model.init(jax.random.key(0), jnp.zeros((1, IN)))["params"]
    return TrainState.create(apply_fn=model.apply, params=params, tx=make())


@jax.jit
def linen_step(state, x, y):
    def loss(params):
        return jnp.mean((state.apply_fn({"params": params}, x) - y) ** 2)

    return state.apply_gradients(grads=jax.grad(loss)(state.params))


def linen_run(state, first, last):
    for step in range(first, last):
        state = linen_step(state, *batch(step))
    return state


@functools.cache
def linen_saved(make):
    """The state at the step of the checkpoint."""
    return linen_run(linen_start(make), 0, SAVED)


def nnx_start(make):
    model = Nnx(nnx.Rngs(0))
    return model, nnx.Optimizer(model, make(), wrt=nnx.Param)


@nnx.jit
def nnx_step(model, optimizer, x, y):
    def loss(model):
        return jnp.mean((model(x) - y) ** 2)

    optimizer.update(model, nnx.grad(loss)(model))


def nnx_run(model, optimizer, first, last):
    for step in range(first, last):
        nnx_step(model, optimizer, *batch(step))
    return nnx.state((model, optimizer))


@of("shampoo")
def test_at_the_step_of_the_checkpoint_some_roots_are_stale(make):
    """What the tests below rest on: the last steps before it refreshed some roots and left others."""
    before = linen_run(linen_start(make), 0, SAVED - 2)
    states = before.opt_state, linen_saved(make).opt_state
    ((_, old),), ((_, new),) = (optax.tree.get_all_with_path(state, "roots") for state in states)
    moved = [
        np.any(a.matrix != b.matrix, axis=(1, 2))
        for x, y in zip(old.values(), new.values(), strict=True)
        for a, b in zip(x.derived, y.derived, strict=True)
    ]
    assert {True, False} == set(np.concatenate(moved).tolist())


@of("shampoo")
def test_a_linen_run_goes_on_bit_for_bit(make, tmp_path):
    state = linen_saved(make)
    save(tmp_path, state)
    restored = restore(tmp_path, abstract(jax.eval_shape(lambda: linen_start(make))))
    assert_equal(restored.opt_state, state.opt_state)
    assert_equal(linen_run(restored, SAVED, LAST).params, linen_run(state, SAVED, LAST).params)


@of("soap")
def test_an_nnx_run_goes_on_bit_for_bit(make, tmp_path):
    run = nnx_start(make)
    saved = nnx_run(*run, 0, SAVED)
    save(tmp_path, saved)
    expected = nnx_run(*run, SAVED, LAST)
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: nnx_start(make)))
    restored = nnx.merge(graphdef, restore(tmp_path, abstract(shapes)))
    assert_equal(nnx_run(*restored, SAVED, LAST), expected)


@of("shampoo")
def test_the_target_may_come_from_shapes_alone(make, tmp_path):
    state = linen_saved(make)
    save(tmp_path, state.opt_state)
    shapes = jax.eval_shape(make().init, jax.eval_shape(lambda: state.params))
    assert_equal(restore(tmp_path, abstract(shapes)), state.opt_state)


@of("shampoo")
def test_a_checkpoint_of_one_device_restores_on_eight(make, tmp_path):
    state = linen_saved(make)
    save(tmp_path, state)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    restored = restore(tmp_path, abstract(state, NamedSharding(mesh, P())))
    assert_equal(restored, state)
    after = linen_run(restored, SAVED, LAST)
    assert all(leaf.sharding.num_devices == 8 for leaf in jax.tree.leaves(after))
    expected = linen_run(state, SAVED, LAST)
    for a, b in zip(arrays(after.params), arrays(expected.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

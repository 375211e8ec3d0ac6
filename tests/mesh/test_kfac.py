"""K-FAC on meshes: layers are divided over devices, with their factors and inverses, and no trajectory changes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from precond.blocks import Layer
from precond.layers import LayerFactors
from precond.mesh import replicate
from tests.mesh import loops
from tests.mesh.test_devices import collectives, stacks_of

pytestmark = pytest.mark.usefixtures("x64")

# Layers of three sizes, one of them scanned; one has a bias.
LAYERS = {
    "first": Layer("first/kernel", "first/bias", 0, (16, 24), (), (0,), (1,)),
    "middle": Layer("middle", None, 1, (24, 24), (), (0,), (1,)),
    "last": Layer("last/kernel", None, 0, (24, 8), (), (0,), (1,)),
}
STACKED = precond.sharded(None, multiple=8)


def factors_of(grads):
    """Make the factors of layers from the gradients, so that every loop has them."""

    def two(m):
        wide = jnp.concatenate([m, jnp.ones((*m.shape[:-1], 1))], axis=-1)
        return LayerFactors(wide @ wide.mT + 0.1 * jnp.eye(m.shape[1]), m.mT @ m + 0.1 * jnp.eye(m.shape[2]))

    first = jnp.concatenate([grads["first"]["kernel"], grads["first"]["bias"][None]])[None]
    return {"first": two(first), "middle": two(grads["middle"]), "last": two(grads["last"]["kernel"][None])}


def make(axis="data", mesh=None, **arguments):
    """K-FAC, in loops that pass no factors."""
    given = {"refresh": precond.every(2, stagger=True), "bound": 1e-2, "damping": 1e-2} | arguments
    tx = precond.kfac(0.1, LAYERS, axis=axis, mesh=mesh, **given)

    def update(grads, state, params=None):
        return tx.update(grads, state, params, factors=factors_of(replicate(grads)))

    return optax.GradientTransformation(tx.init, update)


@functools.cache
def expected():
    return loops.one_device(make(STACKED))


FEW = {"auto, fully sharded", "shard_map"}  # the others, which share their mechanism, wait for `make test-slow`
EACH = [pytest.param(f, id=name, marks=[pytest.mark.slow] * (name not in FEW)) for name, f in loops.LOOPS.items()]


@pytest.mark.parametrize("loop", EACH)
def test_a_loop_changes_no_step(loop):
    actual = loop(make)
    chex.assert_trees_all_close(actual, expected(), rtol=0, atol=1e-12)
    moved = jax.tree.map(lambda a, p: np.abs(a - p).max(), actual, loops.parameters())
    assert min(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [precond.every(4, stagger=True), precond.every(4)], ids=["in turns", "at once"])
def test_steps_are_the_same_on_1_2_4_and_8_devices(schedule):
    def trained(count):
        return loops.jitted(functools.partial(make, refresh=schedule), mesh=loops.mesh_of(shape=(count,)))

    alone = trained(1)
    for count in (2, 4, 8):
        chex.assert_trees_all_close(trained(count), alone, rtol=0, atol=1e-12)


def test_each_of_8_devices_keeps_an_eighth_and_one_block_of_every_stack():
    program, state = loops.jitted(make, lower=True)
    whole = stacks_of(jax.eval_shape(make(None).init, loops.parameters()))
    assert len(whole) > 10
    for path, x in stacks_of(state).items():
        (shard,) = {s.data.shape for s in x.addressable_shards}
        assert np.prod(shard) <= np.prod(whole[path].shape) / 8 + np.prod(x.shape[1:], dtype=int)
    # Summed are the gradient, the products which bound the step, and how many blocks are not finite.
    gradients = sum(x.size for x in jax.tree.leaves(loops.parameters()))
    assert collectives(program)["all-reduce"] == gradients + 2
    assert set(collectives(program)) == {"all-reduce", "all-gather"}

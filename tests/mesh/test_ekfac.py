"""EK-FAC on meshes: as K-FAC, with second moments that are captured in the bases of a divided state."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from precond.layers import LayerFactors
from precond.layers.bases_of import bases_of
from precond.mesh import replicate
from tests.mesh import loops
from tests.mesh.test_devices import stacks_of
from tests.mesh.test_kfac import LAYERS, STACKED, factors_of

pytestmark = pytest.mark.usefixtures("x64")


def spread(factor):
    """A factor without equal eigenvalues, whose eigenvectors rounding would choose."""
    return factor + jnp.diag(jnp.linspace(0, 1, factor.shape[-1]))


def make(axis="data", mesh=None):
    """EK-FAC, in loops that pass no factors: each layer's gradient stands for its one example."""
    refresh = precond.every(2, stagger=True, delay=1, warmup=1)
    tx = precond.ekfac(0.1, LAYERS, axis=axis, mesh=mesh, refresh=refresh, bound=1e-2, damping=1e-2)

    def update(given, state, params=None):
        grads = replicate(given)
        leaves = {"first/kernel": grads["first"]["kernel"], "first/bias": grads["first"]["bias"]}
        leaves |= {"middle": grads["middle"], "last/kernel": grads["last"]["kernel"]}
        factors, bases = factors_of(grads), bases_of(state, LAYERS, grads)
        for name, layer in LAYERS.items():
            whole = layer.matrix(leaves[layer.kernel], leaves.get(layer.bias))
            moments = jnp.square(bases[name]["inputs"].mT @ whole @ bases[name]["outputs"])
            factors[name] = LayerFactors(*map(spread, factors[name][:2]), moments)
        return tx.update(given, state, params, factors=factors)

    return optax.GradientTransformation(tx.init, update)


@functools.cache
def expected():
    return loops.one_device(make(STACKED))


FEW = {"shard_map"}  # where bases are gathered by hand; the others wait for `make test-slow`
EACH = [pytest.param(f, id=name, marks=[pytest.mark.slow] * (name not in FEW)) for name, f in loops.LOOPS.items()]


@pytest.mark.parametrize("loop", EACH)
def test_a_loop_changes_no_step(loop):
    actual = loop(make)
    chex.assert_trees_all_close(actual, expected(), rtol=0, atol=1e-12)
    moved = jax.tree.map(lambda a, p: np.abs(a - p).max(), actual, loops.parameters())
    assert min(jax.tree.leaves(moved)) > 1e-3


def test_each_of_8_devices_keeps_an_eighth_and_one_block_of_every_stack():
    state = make(mesh=loops.mesh_of()).init(loops.parameters())
    whole = stacks_of(jax.eval_shape(make(None).init, loops.parameters()))
    assert len(whole) > 10
    for path, x in stacks_of(state).items():
        (shard,) = {s.data.shape for s in x.addressable_shards}
        assert np.prod(shard) <= np.prod(whole[path].shape) / 8 + np.prod(x.shape[1:], dtype=int)

"""A graft of each system on each: the direction of the one, with the length of the other."""

import jax
import jax.numpy as jnp
import optax
import pytest

import precond
from tests.conformance import mixing
from tests.conformance.mixing import FIRST, SYSTEMS

pytestmark = pytest.mark.usefixtures("x64")


def grafted(direction, magnitude):
    """The direction, scaled to the length of the magnitude; both are arrays, or both trees that count as one vector."""
    norm = optax.tree.norm(direction)
    ratio = jnp.where(norm > 0, optax.tree.norm(magnitude) / jnp.where(norm > 0, norm, 1), 0)
    return jax.tree.map(lambda d: d * ratio, direction)


QUICK = (("kfac", "shampoo"), ("meta", "soap"), ("ekfac", "kl_soap"))


@pytest.mark.parametrize(("direction", "magnitude"), mixing.pairs(SYSTEMS, SYSTEMS, *QUICK))
def test_each_parameter_goes_the_way_of_the_one_as_far_as_the_other(direction, magnitude):
    tx = precond.graft(direction=mixing.make(direction), magnitude=mixing.make(magnitude))
    actual, _ = mixing.run(tx, FIRST, extra=mixing.callers(direction, magnitude))
    both = zip(mixing.alone(direction, FIRST), mixing.alone(magnitude, FIRST), strict=True)
    mixing.assert_same(actual, [jax.tree.map(grafted, *updates) for updates in both])


def kronecker(statistics, root, **more):
    return precond.scale_by_kronecker(statistics, root, **({"refresh": 2} | more))


def k_fac(root, **more):
    return kronecker(optax.chain(precond.activations(), precond.balance()), root, **more)


LATE = precond.every(2, delay=1, warmup=1)
PARTS = {
    "k-fac": lambda: k_fac(precond.inverse(0.1)),
    "shampoo": lambda: kronecker(precond.outer_products(), precond.inverse_root()),
    "soap": lambda: kronecker(precond.outer_products(), precond.eigenbasis(), momentum=optax.ema(0.9), refresh=LATE),
    "ek-fac": lambda: precond.use_measured_moments(k_fac(precond.corrected_inverse(0.1), refresh=LATE)),
    "kl-shampoo": lambda: kronecker(precond.kl(), precond.inverse_root(power=0.5)),
    "momentum": lambda: precond.with_momentum(optax.ema(0.9), precond.transforms.scale_by_diagonal()),
    "adam": lambda: precond.per_block(optax.scale_by_adam()),
}
"""What runs on stacks, of each system: any of them may stand in a graft inside of `by_layer`."""


def on_layers(inner):
    """The updates of the layer, whose kernel and bias are one block."""
    tx = mixing.by_layer(inner, otherwise=optax.set_to_zero())
    return [updates["one"] for updates in mixing.run(tx, FIRST, extra=mixing.callers())[0]]


def on_matrices(inner):
    """The updates of the kernel, which is a block."""
    tx = precond.blocked(inner, otherwise=optax.set_to_zero())
    return [updates["one"]["kernel"] for updates in mixing.run(tx, FIRST, extra=mixing.callers())[0]]


def inside(names, quick):
    every = [(a, b) for a in names for b in names]
    return [pytest.param(*pair, marks=[] if pair in quick else pytest.mark.slow) for pair in every]


@pytest.mark.parametrize(("direction", "magnitude"), inside(PARTS, {("soap", "ek-fac")}))
def test_each_layer_goes_the_way_of_the_one_as_far_as_the_other(direction, magnitude):
    one, other = PARTS[direction], PARTS[magnitude]
    both = zip(on_layers(one()), on_layers(other()), strict=True)
    mixing.assert_same(on_layers(precond.graft(one(), other())), [grafted(*updates) for updates in both])


OF_GRADIENTS = [name for name in PARTS if name not in ("k-fac", "ek-fac")]
"""Those that need no factors of layers, and run inside of `blocked` as well."""


@pytest.mark.parametrize(("direction", "magnitude"), inside(OF_GRADIENTS, {("kl-shampoo", "momentum")}))
def test_each_block_goes_the_way_of_the_one_as_far_as_the_other(direction, magnitude):
    one, other = PARTS[direction], PARTS[magnitude]
    both = zip(on_matrices(one()), on_matrices(other()), strict=True)
    mixing.assert_same(on_matrices(precond.graft(one(), other())), [grafted(*updates) for updates in both])

"""Gradients through steps of an optimizer, by its learning rate and by the parameters, against finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

TURNS = precond.every(2, stagger=True)
OPTIMIZERS = {
    "shampoo in turns": functools.partial(precond.shampoo, refresh=TURNS, damping=1e-2),
    "shampoo at once": functools.partial(precond.shampoo, refresh=2, damping=1e-2),
    "shampoo in every step": functools.partial(precond.shampoo, refresh=1, damping=1e-2),
    "kl_shampoo": functools.partial(precond.kl_shampoo, refresh=TURNS, damping=1e-2),
    "a root of few turns": functools.partial(precond.shampoo, refresh=precond.every(5, stagger=True), damping=1e-2),
}


QUICK = ("shampoo in turns", "a root of few turns")


def outer(make, rate, w):
    """The loss after three steps."""
    x, y = (jax.random.normal(jax.random.key(i), s) for i, s in [(1, (16, 6)), (2, (16, 4))])
    tx = make(rate)

    def loss(w):
        return jnp.mean((x @ w - y) ** 2)

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(jax.grad(loss)(w), state, w)
        return (optax.apply_updates(w, updates), state), None

    return loss(jax.lax.scan(step, (w, tx.init(w)), None, length=3)[0][0])


@pytest.mark.parametrize(
    "make",
    [pytest.param(make, id=name, marks=[pytest.mark.slow] * (name not in QUICK)) for name, make in OPTIMIZERS.items()],
)
def test_they_are_the_finite_differences(make):
    w, run = jax.random.normal(jax.random.key(0), (6, 4)), jax.jit(functools.partial(outer, make))
    by_rate, by_w = jax.jit(jax.grad(functools.partial(outer, make), (0, 1)))(0.01, w)
    size = 1e-6
    expected = (run(0.01 + size, w) - run(0.01 - size, w)) / (2 * size)
    np.testing.assert_allclose(by_rate, expected, rtol=1e-6)
    expected = (run(0.01, w + size) - run(0.01, w - size)) / (2 * size)
    np.testing.assert_allclose(jnp.sum(by_w), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_they_can_be_mapped():
    make = OPTIMIZERS["shampoo in turns"]
    rates, w = jnp.asarray([0.01, 0.02]), jax.random.normal(jax.random.key(0), (6, 4))
    each = jnp.stack([jax.grad(outer, 1)(make, rate, w) for rate in rates])
    mapped = jax.vmap(lambda rate: jax.grad(outer, 1)(make, rate, w))(rates)
    summed = jax.grad(lambda rates: jnp.sum(jax.vmap(lambda rate: outer(make, rate, w))(rates)))(rates)
    np.testing.assert_allclose(mapped, each, rtol=1e-9)
    alone = [jax.grad(lambda rate: outer(make, rate, w))(rate) for rate in rates]
    np.testing.assert_allclose(summed, alone, rtol=1e-9)

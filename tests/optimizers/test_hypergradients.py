"""Gradients through steps of an optimizer, by its learning rate and by the parameters, against finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from precond.control_flow import after

pytestmark = pytest.mark.usefixtures("x64")

TURNS = precond.every(2, stagger=True)
OPTIMIZERS = {
    "shampoo in turns": functools.partial(precond.shampoo, refresh=TURNS, damping=1e-2),
    "shampoo at once": functools.partial(precond.shampoo, refresh=2, damping=1e-2),
    "shampoo in every step": functools.partial(precond.shampoo, refresh=1, damping=1e-2),
    "kl_shampoo": functools.partial(precond.kl_shampoo, refresh=TURNS, damping=1e-2),
    "neumann": functools.partial(precond.neumann, warmup=1),
    "neumann, warming up": precond.neumann,
    "muon": precond.muon,
    "muon on a sphere": lambda rate: optax.chain(precond.scale_by_muon(), precond.transforms.hyperball(rate)),
    "a root of few turns": functools.partial(precond.shampoo, refresh=precond.every(5, stagger=True), damping=1e-2),
}


QUICK = ("neumann", "muon on a sphere")


def outer(make, rate, w, rank=6):
    """The loss after three steps, on inputs of this rank."""
    x, y = (jax.random.normal(jax.random.key(i), (16, d)) for i, d in zip((1, 2), w.shape, strict=True))
    x = x.at[:, rank:].set(0)
    tx = make(rate)

    def loss(w):
        return jnp.mean((x @ w - y) ** 2)

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(jax.grad(loss)(w), state, w)
        return (optax.apply_updates(w, updates), state), None

    return loss(jax.lax.scan(step, (w, tx.init(w)), None, length=3)[0][0])


@pytest.mark.platforms
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


@pytest.mark.platforms
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


BASES = {
    "soap": precond.soap,
    "soap at once": functools.partial(precond.soap, refresh=1),
    "soap by eigh": functools.partial(precond.soap, method=precond.eigh(), refresh=1),
    "soap by rotations": functools.partial(precond.soap, method=precond.roots.rotations(), refresh=1),
}


@pytest.mark.platforms
@pytest.mark.parametrize(
    "make", [pytest.param(m, id=n, marks=[pytest.mark.slow] * (n != "soap at once")) for n, m in BASES.items()]
)
def test_those_of_bases_are_the_finite_differences(make):
    """The matrix is square, so that no eigenvalue is 0 and no eigenvector arbitrary."""
    w, run = jax.random.normal(jax.random.key(0), (4, 4)), jax.jit(functools.partial(outer, make))
    by_rate, by_w = jax.jit(jax.grad(functools.partial(outer, make), (0, 1)))(0.01, w)
    size = 1e-6
    expected = (run(0.01 + size, w) - run(0.01 - size, w)) / (2 * size)
    np.testing.assert_allclose(by_rate, expected, rtol=1e-6)
    expected = (run(0.01, w + size) - run(0.01, w - size)) / (2 * size)
    np.testing.assert_allclose(jnp.sum(by_w), expected, rtol=1e-5, atol=1e-7)


NEUMANN = functools.partial(precond.neumann, warmup=1)
POOR = {"soap": precond.soap, "shampoo": precond.shampoo, "kl_shampoo": precond.kl_shampoo, "neumann": NEUMANN}


@pytest.mark.parametrize(
    "make",
    [pytest.param(m, id=n, marks=[pytest.mark.slow] * (n != "neumann")) for n, m in POOR.items()],
)
def test_those_by_the_learning_rate_are_right_where_gradients_have_a_low_rank(make):
    """Factors have eigenvalues that are 0, several of them, and rows of the gradient are 0."""
    w, run = jax.random.normal(jax.random.key(0), (4, 4)), jax.jit(functools.partial(outer, make, rank=2))
    by_rate, by_w = jax.jit(jax.grad(functools.partial(outer, make, rank=2), (0, 1)))(0.01, w)
    expected = (run(0.01 + 1e-6, w) - run(0.01 - 1e-6, w)) / 2e-6
    np.testing.assert_allclose(by_rate, expected, rtol=1e-6)
    assert jnp.all(jnp.isfinite(by_w))


@pytest.mark.parametrize("make", [precond.soap, OPTIMIZERS["muon on a sphere"]], ids=["soap", "muon on a sphere"])
def test_those_of_a_gradient_of_zeros_are_no_nan(make):
    by_rate, by_w = jax.jit(jax.grad(functools.partial(outer, make, rank=0), (0, 1)))(0.01, jnp.ones((2, 2)))
    assert by_rate == 0
    np.testing.assert_array_equal(by_w, jnp.zeros((2, 2)))


def test_work_that_stands_behind_other_work_lets_derivatives_through():
    def scaled(x):
        return x * after(jnp.asarray(3), {"x": x})

    assert jax.grad(scaled)(2.0) == 3
    assert jax.vmap(jax.grad(scaled))(jnp.ones(2)).tolist() == [3, 3]

"""K-FAC's direction inside the transformations of Optax and of this library: all hand on its factors."""

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

pytestmark = pytest.mark.usefixtures("x64")

LAYERS = {name: Layer(f"{name}/kernel", None, 0, (3, 4), (), (0,), (1,)) for name in ("first", "second")}


def tree(seed):
    rng = np.random.default_rng(seed)
    return {name: {"kernel": jnp.asarray(rng.standard_normal((3, 4)))} for name in LAYERS}


def factors():
    rng = np.random.default_rng(7)
    roots = {name: (rng.standard_normal((1, 3, 5)), rng.standard_normal((1, 4, 6))) for name in LAYERS}
    return {name: LayerFactors(*(jnp.asarray(x @ x.transpose(0, 2, 1)) for x in pair)) for name, pair in roots.items()}


kfac = functools.partial(precond.scale_by_kfac, damping=0.01, refresh=1)


@functools.cache
def alone():
    """The direction by itself, as a function of gradients."""
    tx = kfac(LAYERS)
    return jax.jit(lambda grads: tx.update(grads, tx.init(grads), factors=factors())[0])


def moved(tx, grads, params):
    return jax.jit(tx.update)(grads, tx.init(params), params, factors=factors())[0]


def assert_close(actual, expected):
    chex.assert_trees_all_close(actual, expected, rtol=1e-11, atol=1e-13)


def norms(tree):
    return jax.tree.map(lambda x: float(jnp.linalg.norm(x)), tree)


def test_a_chain():
    grads, params = tree(0), tree(1)
    tx = optax.chain(optax.clip_by_global_norm(0.5), kfac(LAYERS), optax.add_decayed_weights(0.1), optax.scale(-2.0))
    clipped = optax.tree.scale(0.5 / optax.tree.norm(grads), grads)
    expected = jax.tree.map(lambda v, w: -2 * (v + 0.1 * w), alone()(clipped), params)
    assert_close(moved(tx, grads, params), expected)


def test_a_partition_of_a_trunk_and_a_head():
    grads, params = tree(0), tree(1)
    labels = {"first": {"kernel": "trunk"}, "second": {"kernel": "head"}}
    tx = optax.partition({"trunk": kfac(LAYERS), "head": optax.scale_by_adam()}, labels)
    updates = moved(tx, grads, params)
    assert_close(updates["first"], alone()(grads)["first"])
    np.testing.assert_allclose(updates["second"]["kernel"], np.sign(grads["second"]["kernel"]), rtol=1e-6)


def test_a_mask():
    grads = tree(0)
    updates = moved(optax.masked(kfac(LAYERS), {"first": True, "second": False}), grads, tree(1))
    assert_close(updates, {"first": alone()(grads)["first"], "second": grads["second"]})


@pytest.mark.slow
def test_conditions():
    grads = tree(0)
    tx = optax.conditionally_transform(kfac(LAYERS), lambda step, **extra: step < 1, forward_extra_args=True)
    assert_close(moved(tx, grads, tree(1)), alone()(grads))
    assert_close(moved(optax.apply_if_finite(kfac(LAYERS), 1), grads, tree(1)), alone()(grads))


@pytest.mark.parametrize("where", ["outside", pytest.param("inside", marks=pytest.mark.slow)])
def test_grafting_gives_the_direction_the_length_of_another(where):
    """Outside by parameter, inside by layer; without biases that is the same."""
    grads, params = tree(0), tree(1)
    graft = functools.partial(precond.graft, magnitude=optax.scale_by_rms(0.9))
    tx = graft(kfac(LAYERS)) if where == "outside" else kfac(LAYERS, around=graft)
    updates, direction = moved(tx, grads, params), alone()(grads)
    rms = optax.scale_by_rms(0.9)
    lengths = norms(rms.update(grads, rms.init(params))[0])
    expected = jax.tree.map(lambda v, n, length: v / n * length, direction, norms(direction), lengths)
    assert_close(updates, expected)


def test_a_schedule_of_injected_damping():
    damping = optax.piecewise_constant_schedule(0.01, {1: 10.0})
    tx = optax.inject_hyperparams(precond.scale_by_kfac, ("refresh", "around"))(LAYERS, damping=damping, refresh=1)
    grads, update = tree(0), jax.jit(tx.update)
    first, state = update(grads, tx.init(grads), factors=factors())
    assert_close(first, alone()(grads))
    second, state = update(grads, state, factors=factors())
    assert state.hyperparams["damping"] == 0.1
    a, g = (np.asarray(x)[0] for x in factors()["first"][:2])
    pi = np.sqrt(np.trace(a) / 3 / (np.trace(g) / 4))
    left, right = a + pi * 0.1**0.5 * np.eye(3), g + 0.1**0.5 / pi * np.eye(4)
    expected = np.linalg.solve(left, np.asarray(grads["first"]["kernel"])) @ np.linalg.inv(right)
    assert_close(second["first"]["kernel"], expected)


def test_weight_decay_in_the_damping_is_the_penalty_of_a_ridge_regression():
    """Its Hessian is A + decay, whatever the targets: one step from anywhere is the last."""
    rng, decay = np.random.default_rng(3), 0.3
    x, y, start = rng.standard_normal((20, 3)), rng.standard_normal((20, 4)), tree(5)
    a = x.T @ x / 20
    seen = {"first": LayerFactors(jnp.asarray(a[None]), jnp.eye(4)[None])}
    layer, params = {"first": LAYERS["first"]}, {"first": start["first"]}
    direction = precond.scale_by_kfac(layer, root=precond.eigen_inverse(decay), refresh=1)
    tx = optax.chain(optax.add_decayed_weights(decay), direction, optax.scale(-1.0))
    w = np.asarray(params["first"]["kernel"])
    grads = {"first": {"kernel": jnp.asarray(a @ w - x.T @ y / 20)}}
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params, factors=seen)
    expected = np.linalg.solve(a + decay * np.eye(3), x.T @ y / 20)
    np.testing.assert_allclose(optax.apply_updates(params, updates)["first"]["kernel"], expected, atol=1e-12)

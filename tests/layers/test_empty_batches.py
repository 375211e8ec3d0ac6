"""Batches without examples: refused where a step is traced, or skipped, with no NaN in any state."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import precond
from precond import layers
from precond.layers import linen
from precond.layers import nnx as front

X = np.random.default_rng(0).standard_normal((6, 3))


class Routed(nn.Module):
    """The first examples go through one layer, the others through another."""

    @nn.compact
    def __call__(self, x, first=3):
        left, right = nn.Dense(2, name="left"), nn.Dense(2, name="right")
        return jnp.concatenate([left(x[:first]), right(x[first:])])


def mean_of_squares(outputs, *_):
    return jnp.mean(jnp.sum((outputs - 1) ** 2, axis=-1))


def made():
    model = Routed()
    variables = model.init(jax.random.key(0), X)
    return model, variables, linen.capture(model, variables, X)


def finite(tree):
    return all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact))


@pytest.mark.parametrize("fisher", [layers.exact(layers.gaussian()), layers.sampled(layers.gaussian())])
def test_a_batch_without_examples_is_refused_when_the_step_is_traced(fisher):
    _, variables, capture = made()

    def forward(params, x):
        return capture.apply({"params": params}, x)

    steps = [
        layers.value_grad_factors(forward, mean_of_squares, capture, fisher=fisher),
        layers.factors_alone(forward, capture, fisher=fisher),
    ]
    for step in steps:
        with pytest.raises(ValueError, match=r"The batch is empty: forward= returned outputs of shape \(0, 2\)"):
            jax.jit(step)(variables["params"], X[:0], key=jax.random.key(0))


def test_an_example_without_rows_is_no_example_for_a_capture():
    model, variables, _ = made()
    with pytest.raises(ValueError, match="at least one row"):
        linen.capture(model, variables, X[:0])
    with pytest.raises(ValueError, match="at least one row"):
        front.capture(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), X[:0])


def test_a_loop_that_passes_gradients_alone_skips_an_empty_batch():
    _, variables, capture = made()
    params, tx = capture.attach(variables["params"]), precond.kfac(0.1, weight_decay=0.1)

    @jax.jit
    def step(params, state, x):
        grads = jax.grad(lambda params: mean_of_squares(capture.apply({"params": params}, x)))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state = step(params, tx.init(params), X)
    stayed, after = step(params, state, X[:0])
    chex.assert_trees_all_equal(stayed, params)
    assert precond.metrics(after)["blocks/skipped"] == 2
    assert finite(after)
    moved, _ = step(stayed, after, X)
    assert finite(moved)
    assert not jnp.array_equal(moved["left"]["kernel"], params["left"]["kernel"])


@pytest.mark.parametrize("fisher", [layers.empirical(), layers.exact(layers.gaussian())], ids=["empirical", "exact"])
def test_the_factors_of_a_batch_that_is_all_padding_count_as_nothing(fisher):
    _, variables, capture = made()

    def loss(outputs, x, mask):
        return jnp.sum(jnp.where(mask, jnp.sum(outputs**2, -1), 0)) / jnp.sum(mask)

    run = layers.value_grad_factors(
        lambda params, x, mask: capture.apply({"params": params}, x),
        loss,
        capture,
        fisher=fisher,
        examples=lambda outputs, x, mask: jnp.sum(mask),
    )
    params, run = variables["params"], jax.jit(run)
    assert not any(jnp.any(f) for f in jax.tree.leaves(run(params, X, jnp.zeros(6, bool))[2]))
    assert all(jnp.any(f) for f in jax.tree.leaves(run(params, X, jnp.ones(6, bool))[2]))


def test_a_layer_that_saw_no_rows_keeps_its_factors():
    _, variables, capture = made()

    def factors_of(first):
        run = layers.factors_alone(
            lambda params: capture.apply({"params": params}, X, first),
            capture,
            fisher=layers.exact(layers.gaussian()),
        )
        return jax.jit(run)(variables["params"])

    params, tx = variables["params"], precond.scale_by_kfac(capture.layers, refresh=1)
    update, grads = jax.jit(tx.update), jax.tree.map(jnp.ones_like, params)
    once, state = update(grads, tx.init(params), params, factors=factors_of(3))
    for _ in range(3):
        again, state = update(grads, state, params, factors=factors_of(0))
    chex.assert_trees_all_close(again["left"], once["left"], rtol=1e-5)
    assert not np.allclose(again["right"]["kernel"], once["right"]["kernel"], rtol=1e-2)
    assert precond.metrics(state)["kfac/unseen"] == 3


def test_factors_of_outputs_that_are_zero_are_counted():
    """They are zero in every step if the loss does not depend on the captured outputs."""
    _, variables, capture = made()
    params, tx = variables["params"], precond.scale_by_kfac(capture.layers, refresh=1)
    update, grads = jax.jit(tx.update), jax.tree.map(jnp.ones_like, params)
    run = layers.factors_alone(
        lambda params: capture.apply({"params": params}, X, 3), capture, fisher=layers.exact(layers.gaussian())
    )
    factors = run(params)
    without = jax.tree.map(
        lambda x: x._replace(outputs=jnp.zeros_like(x.outputs)),
        factors,
        is_leaf=lambda x: isinstance(x, layers.LayerFactors),
    )
    state = tx.init(params)
    for given, unseen in ((factors, 0), (without, 1), (without, 2), (factors, 0)):
        updates, state = update(grads, state, params, factors=given)
        assert precond.metrics(state)["kfac/unseen"] == unseen
        assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(updates))


@pytest.mark.parametrize("x", [X[:1], np.zeros_like(X)], ids=["one example", "inputs of zeros"])
@pytest.mark.parametrize("alias", [precond.kfac, precond.ekfac])
def test_a_batch_that_says_little_gives_a_finite_step(alias, x):
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
    capture = layers.explicit({"": layers.dense()}, params)

    def forward(params, x):
        return capture.apply("", params, x @ params["kernel"] + params["bias"], x)

    f = layers.value_grad_factors(forward, mean_of_squares, capture, fisher=layers.exact(layers.gaussian()))
    tx = alias(0.1, capture.layers)

    @jax.jit
    def step(params, state):
        given = {"state": state} if alias is precond.ekfac else {}
        _, grads, factors = f(params, x.astype(np.float32), **given)
        updates, state = tx.update(grads, state, params, factors=factors)
        return optax.apply_updates(params, updates), state

    moved, state = step(*step(params, tx.init(params)))
    assert finite((moved, state))
    assert not np.allclose(moved["bias"], params["bias"])

"""Models with several outputs, each with its own likelihood, against the Fisher matrix by its definition."""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import precond
from precond import layers

N = 6
X = np.random.default_rng(0).standard_normal((N, 4))
WIDTHS = {"trunk": (4, 5), "logits": (5, 3), "value": (5, 1), "mean": (5, 1), "log_std": (5, 1)}
ALL = (layers.categorical(), layers.gaussian(0.5), layers.gaussian(None))
TWO = (layers.categorical(), layers.gaussian(0.5))


class Outputs(NamedTuple):
    logits: jax.Array
    value: jax.Array
    place: tuple[jax.Array, jax.Array]


@pytest.fixture
def params():
    rng = np.random.default_rng(1)
    return {name: {"kernel": jnp.asarray(rng.standard_normal(shape))} for name, shape in WIDTHS.items()}


def capture_of(params):
    return layers.explicit({name: layers.dense(bias=False) for name in params}, params)


def network(params, x, apply=lambda path, p, y, x: y):
    def dense(name, x):
        return apply(name, params[name], x @ params[name]["kernel"], x)

    return heads(dense, dense("trunk", x))


def heads(dense, z):
    h = jnp.tanh(z)
    return Outputs(dense("logits", h), dense("value", h)[..., 0], (dense("mean", h), jnp.tanh(dense("log_std", h))))


def log_p(outputs, targets):
    """Of one example."""
    label, score, place = targets
    normal = jax.scipy.stats.norm.logpdf
    mean, log_std = outputs.place
    out = jax.nn.log_softmax(outputs.logits)[label] + normal(score, outputs.value, math.sqrt(0.5))
    return out + jnp.sum(normal(place, mean, jnp.exp(log_std)))


@jax.jit
def fisher(outputs):
    """E[s s^T] of one example, with s the score by all outputs: over all labels, and by quadrature over the rest."""
    flat, back = ravel_pytree(outputs)
    mean, log_std = outputs.place
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    weights = weights / weights.sum()

    def score(label, one, other):
        targets = (label, outputs.value + math.sqrt(0.5) * one, mean + jnp.exp(log_std) * other)
        return jax.grad(lambda flat: log_p(back(flat), targets))(flat)

    label, i, j = np.asarray(list(itertools.product(range(3), range(5), range(5)))).T
    s = jax.vmap(score)(label, nodes[i], nodes[j])
    return jnp.einsum("t,ta,tb->ab", jax.nn.softmax(outputs.logits)[label] * weights[i] * weights[j], s, s)


def of_layers(params):
    """G of each layer, the mean over the examples of J^T F J, with J the Jacobian of all outputs by the layer's."""
    total = dict.fromkeys(WIDTHS, 0)
    for name, (_, width) in WIDTHS.items():

        def moved(by, x, name=name):
            return ravel_pytree(network(params, x, lambda path, p, y, x: y + by if path == name else y))[0]

        jacobian_at = jax.jit(jax.jacobian(moved))
        for x in X:
            jacobian, middle = (np.asarray(m) for m in (jacobian_at(np.zeros(width), x), fisher(network(params, x))))
            total[name] += jacobian.T @ middle @ jacobian / N
    return total


def factors_of(params, estimator, key=None):
    capture = capture_of(params)
    forward = layers.factors_alone(lambda params, x: network(params, x, capture.apply), capture, fisher=estimator)
    return jax.jit(forward)(params, X, key=key)


def test_exact_factors_of_several_outputs_are_those_of_the_definition(params):
    factors, true = factors_of(params, layers.exact(layers.joint(*ALL))), of_layers(params)
    for name, (_, g, _) in factors.items():
        np.testing.assert_allclose(g[0], true[name], atol=1e-12)
    np.testing.assert_allclose(factors["trunk"].inputs[0], X.T @ X / N, atol=1e-12)


def test_sampled_factors_of_several_outputs_come_close_to_the_exact_ones(params):
    """Noise of one output must not go with that of another."""
    exact = factors_of(params, layers.exact(layers.joint(*ALL)))
    sampled = factors_of(params, layers.sampled(layers.joint(*ALL), samples=4000), jax.random.key(0))
    for name, (_, g, _) in exact.items():
        np.testing.assert_allclose(sampled[name].outputs[0], g[0], atol=0.03 * float(jnp.trace(g[0])))


def test_products_with_the_gauss_newton_matrix_of_several_outputs(params):
    labels, scores = jnp.arange(N) % 3, jnp.sin(X[:, 0])

    def loss(outputs):
        logits, value, _ = outputs
        chosen = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(chosen + (value - scores) ** 2)  # of a variance of one half

    flat, back = ravel_pytree(params)
    dense, jacobian_at = 0, jax.jit(jax.jacobian(lambda flat, x: ravel_pytree(network(back(flat), x))[0]))
    for x in X:
        jacobian, block = np.asarray(jacobian_at(flat, x)), np.array(fisher(network(params, x)))
        block[4:] = block[:, 4:] = 0  # without what is not of the logits and the value
        dense += jacobian.T @ block @ jacobian / N
    v = jnp.asarray(np.random.default_rng(2).standard_normal(flat.shape))
    product = jax.jit(layers.ggn_product(lambda params: network(params, X), loss, params))(back(v))
    np.testing.assert_allclose(ravel_pytree(product)[0], dense @ np.asarray(v), atol=1e-11)


def test_a_parameter_that_all_examples_share_gets_no_cotangents():
    means, v = jnp.ones((4, 2)), jnp.ones((4, 2))
    for log_std in (jnp.ones(2), jnp.ones(())):
        own = layers.gaussian(None)
        for out in (own.root((means, log_std), (v, log_std)), own.sample(jax.random.key(0), (means, log_std))):
            assert out[1].shape == log_std.shape
            assert not jnp.any(out[1])
        np.testing.assert_allclose(own.root((means, log_std), (v, log_std))[0], v * jnp.exp(-1), rtol=1e-6)


PAIR = (jnp.ones((4, 3)), jnp.ones(4))
KEY = jax.random.key(0)


@pytest.mark.parametrize("name", ["categorical", "bernoulli", "gaussian"])
@pytest.mark.parametrize("estimator", [layers.exact, layers.sampled])
def test_a_likelihood_of_one_output_refuses_several(name, estimator):
    with pytest.raises(TypeError, match=rf"{name}\(\) is the likelihood of one array.*joint\({name}\(\), \.\.\)"):
        estimator(getattr(layers, name)()).pull(KEY, PAIR, lambda g: g)


@pytest.mark.parametrize(
    ("likelihood", "outputs", "error"),
    [
        (layers.joint(*TWO), PAIR[0], "joint.. has 2 likelihoods.* the model returns an array of shape"),
        (layers.joint(*TWO), (*PAIR, PAIR[0]), "joint.. has 2 likelihoods.*Return a tuple of 2"),
        (layers.joint(*TWO), {"a": PAIR[0], "b": PAIR[1]}, "a dict with the keys"),
        (layers.joint(*TWO), (jnp.ones((4, 3)), jnp.ones(5)), r"first axes.* differ: \[\(4,\), \(5,\)\]"),
        (layers.gaussian(None), PAIR[0], r"a pair of outputs, \(means, log_std\)"),
        (layers.gaussian(None), (jnp.ones((4, 3)), jnp.ones((4, 1))), r"log_std of shape \(4, 1\): give log_std"),
    ],
    ids=["one", "three", "dict", "lengths", "no_pair", "columns"],
)
def test_outputs_of_another_form_are_refused(likelihood, outputs, error):
    for run in (likelihood.sample, lambda key, outputs: likelihood.root(outputs, outputs)):
        with pytest.raises((TypeError, ValueError), match=error):
            run(KEY, outputs)


def test_a_joint_of_what_is_no_likelihood_is_refused():
    with pytest.raises(TypeError, match=r"joint\(\) is given the function categorical"):
        layers.joint(layers.categorical, layers.gaussian())
    with pytest.raises(ValueError, match="no likelihoods"):
        layers.joint()
    sampler = layers.Likelihood(lambda key, outputs: outputs)
    assert layers.joint(sampler, layers.gaussian()).root is None


def test_a_policy_with_a_deviation_of_its_own_is_trained():
    """Actions near a function of the state are rewarded: their mean comes to it, and the deviation falls."""
    rng = np.random.default_rng(0)
    kernel, shift = jnp.asarray(rng.standard_normal((4, 2))), jnp.zeros(2)
    params = {
        "policy": {"kernel": jnp.zeros((4, 2)), "bias": shift},
        "value": {"kernel": jnp.zeros((4, 1)), "bias": jnp.zeros(1)},
        "log_std": jnp.zeros(2),
    }
    kinds = {"policy": layers.dense(), "value": layers.dense()}
    capture = layers.explicit(kinds, params, allow_uncovered=["log_std"])

    def forward(params, batch):
        def dense(name, x):
            return capture.apply(name, params[name], x @ params[name]["kernel"] + params[name]["bias"], x)

        return (dense("policy", batch["x"]), params["log_std"]), dense("value", batch["x"])[:, 0]

    def loss(outputs, batch):
        (mean, log_std), value = outputs
        log_p = jax.scipy.stats.norm.logpdf(batch["action"], mean, jnp.exp(log_std)).sum(-1)
        advantage = batch["reward"] - jax.lax.stop_gradient(value)
        return -jnp.mean(log_p * advantage) + 0.5 * jnp.mean((value - batch["reward"]) ** 2)

    likelihood = layers.joint(layers.gaussian(None), layers.gaussian())
    run = layers.value_grad_factors(forward, loss, capture, fisher=layers.sampled(likelihood))
    tx = precond.kfac(0.1, capture.layers, damping=1e-2, bound=1e-2, otherwise=optax.scale_by_adam())

    def step(carry, key):
        params, state = carry
        draw, act, sample = jax.random.split(key, 3)
        x = jax.random.normal(draw, (256, 4))
        (mean, log_std), _ = forward(params, {"x": x})
        action = mean + jnp.exp(log_std) * jax.random.normal(act, mean.shape)
        reward = -jnp.sum((action - x @ kernel) ** 2, axis=-1)
        _, grads, factors = run(params, {"x": x, "action": action, "reward": reward}, key=sample)
        updates, state = tx.update(grads, state, params, factors=factors)
        return (optax.apply_updates(params, updates), state), reward.mean()

    @jax.jit
    def train(params):
        return jax.lax.scan(step, (params, tx.init(params)), jax.random.split(jax.random.key(0), 80))

    (params, state), rewards = train(params)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves((params, state)))
    assert rewards[-10:].mean() > 0.25 * rewards[:10].mean()
    assert jnp.all(params["log_std"] < -0.3)

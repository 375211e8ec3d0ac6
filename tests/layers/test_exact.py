"""Where the Kronecker product of the factors is the Gauss-Newton matrix, it is so to rounding."""

import functools
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import precond
from precond import layers
from precond.layers import linen

Dense = functools.partial(nn.Dense, param_dtype=jnp.float64)


class Deep(nn.Module):
    """Layers of these widths, with an activation between them."""

    activation: object = staticmethod(lambda x: x)
    pool: bool = False
    bias: bool = False

    @nn.compact
    def __call__(self, x):
        for width in (3, 4):
            x = self.activation(Dense(width, use_bias=self.bias)(x))
        x = Dense(2, use_bias=self.bias)(x)
        return x.mean(axis=1) if self.pool else x


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def gauss_newton(model, params, layer, x, likelihood):
    """The matrix of one layer's weights and bias (as the last row) for a mean over examples, by dense Jacobians."""
    bias = "bias" in params[layer]

    def outputs(matrix):
        own = {"kernel": matrix[:-1], "bias": matrix[-1]} if bias else {"kernel": matrix}
        return model.apply({"params": params | {layer: own}}, x)

    parts = [params[layer]["kernel"]] + ([params[layer]["bias"][None]] if bias else [])
    matrix = jnp.concatenate(parts)
    out, jacobian = jax.jit(lambda m: (outputs(m), jax.jacobian(outputs)(m)))(matrix)
    n, size = out.shape[0], math.prod(out.shape[1:])
    # [n, size, size]: the root of each example's Fisher matrix, its columns last
    roots = jax.jit(jax.vmap(jax.jacobian(likelihood.root, argnums=1)))(out, out).reshape(n, size, size)
    half = np.einsum("nsp,nsb->npb", np.asarray(jacobian).reshape(n, size, -1), roots)
    return np.einsum("npb,nqb->pq", half, half) / n


def factors_of(model, params, x, likelihood, **kwargs):
    capture = linen.capture(model, {"params": params}, x, **kwargs)
    f = layers.value_grad_factors(
        lambda params, x: capture.apply({"params": params}, x),
        lambda outputs, x: jnp.mean(outputs),
        capture,
        fisher=layers.exact(likelihood),
    )
    return jax.jit(f)(params, x)[2]


def assert_exact(model, x, likelihood, **kwargs):
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda p: normal(*p.shape, seed=1) / 2, params)
    factors = factors_of(model, params, x, likelihood, **kwargs)
    assert len(factors) == 3
    for name, (a, g, _) in factors.items():
        expected = gauss_newton(model, params, name, x, likelihood)
        np.testing.assert_allclose(np.kron(a[0], g[0]), expected, rtol=0, atol=1e-12 * abs(expected).max())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("positions", [1, 5])
def test_expand_is_exact_for_deep_linear_networks_whose_loss_sums_over_positions(positions, bias):
    shape = (6, 4) if positions == 1 else (6, positions, 4)
    assert_exact(Deep(bias=bias), normal(*shape), layers.gaussian())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("positions", [1, 5])
def test_reduce_is_exact_for_deep_linear_networks_that_pool_over_positions(positions, bias):
    model = Deep(pool=True, bias=bias)
    assert_exact(model, normal(6, positions, 4), layers.gaussian(0.5), sharing=layers.reduce)


def test_expand_is_not_exact_where_reduce_is():
    with pytest.raises(AssertionError):
        assert_exact(Deep(pool=True), normal(6, 5, 4), layers.gaussian())


@pytest.mark.parametrize(
    ("activation", "name"), [(nn.tanh, "categorical"), (nn.relu, "gaussian"), (nn.gelu, "bernoulli")]
)
def test_one_example_is_exact_for_any_activation(activation, name):
    assert_exact(Deep(activation, bias=True), normal(1, 4), getattr(layers, name)())


@pytest.mark.parametrize("name", ["gaussian", "categorical", "bernoulli"])
def test_the_root_of_a_likelihood_squares_to_the_hessian_of_its_loss(name):
    outputs = normal(4, seed=3)
    losses = {
        "gaussian": lambda f: jnp.sum((f - 1.0) ** 2) / 2,
        "categorical": lambda f: -jax.nn.log_softmax(f)[2],
        "bernoulli": lambda f: jnp.sum(jax.nn.softplus(f)),  # of targets that are 0
    }
    b = jax.jacobian(lambda v: getattr(layers, name)().root(outputs, v))(jnp.zeros(4))
    np.testing.assert_allclose(b @ b.T, jax.hessian(losses[name])(outputs), atol=1e-14)


@pytest.mark.parametrize("name", ["gaussian", "categorical", "bernoulli"])
def test_sampled_cotangents_have_mean_zero_and_the_fisher_matrix_for_covariance(name):
    likelihood, outputs, n = getattr(layers, name)(), normal(3, seed=3), 200_000
    drawn = likelihood.sample(jax.random.key(0), jnp.broadcast_to(outputs, (n, 3)))
    b = jax.jacobian(lambda v: likelihood.root(outputs, v))(jnp.zeros(3))
    np.testing.assert_allclose(drawn.mean(0), 0, atol=5 / n**0.5)
    np.testing.assert_allclose(drawn.T @ drawn / n, b @ b.T, atol=10 / n**0.5)


@pytest.mark.parametrize("name", ["gaussian", "categorical", "bernoulli"])
def test_propagated_cotangents_have_the_fisher_matrix_for_covariance(name):
    likelihood, outputs, n = getattr(layers, name)(), normal(3, seed=3), 200_000
    pull = layers.propagated(likelihood, samples=2).pull
    second = pull(jax.random.key(0), jnp.broadcast_to(outputs, (n, 3)), lambda g: g.T @ g / n)
    b = jax.jacobian(lambda v: likelihood.root(outputs, v))(jnp.zeros(3))
    np.testing.assert_allclose(second, b @ b.T, atol=10 / n**0.5)
    own = 1e-14 if name == "gaussian" else 10 / n**0.5  # a square of a sign is 1
    np.testing.assert_allclose(jnp.diagonal(second), jnp.diagonal(b @ b.T), atol=own)
    with pytest.raises(ValueError, match=r"propagated\(\) needs a likelihood with a root"):
        layers.propagated(layers.Likelihood(likelihood.sample))


@pytest.mark.parametrize("whole", [False, True])
def test_a_table_that_is_added_has_the_fisher_matrix_of_each_number_or_of_each_row(whole):
    params, x, behind = {"bias": normal(5, 3)}, normal(4, 2, 5, 3, seed=1), normal(3, 3, seed=2)
    capture = layers.explicit({"": layers.Added(rank=2, whole=whole)}, params)
    forward = lambda params: jnp.tanh(capture.apply("", params, params["bias"] + x, x)) @ behind  # noqa: E731
    mean = lambda outputs: jnp.sum(jnp.sin(outputs)) / 4  # noqa: E731
    f = layers.value_grad_factors(forward, mean, capture, fisher=layers.exact(layers.gaussian()))
    _, grads, factors = jax.jit(f)(params)
    jacobian = np.asarray(jax.jacobian(lambda bias: jnp.tanh(bias + x) @ behind)(params["bias"]))
    fisher = np.einsum("nstoab,nstocd->abcd", jacobian, jacobian) / 4
    tx = precond.scale_by_kfac(capture.layers, damping=0.1)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), factors=factors)
    if whole:
        rows = [(fisher[i, :, i] + 0.1 * np.eye(3), grads["bias"][i]) for i in range(5)]
        expected = np.stack([np.linalg.solve(*row) for row in rows])
    else:
        expected = grads["bias"] / (np.einsum("abab->ab", fisher) + 0.1)
    np.testing.assert_allclose(updates["bias"], expected, rtol=1e-12)


def test_weights_of_several_losses_weigh_their_fisher_matrices():
    joint = layers.joint(layers.categorical(), layers.bernoulli(), weights=(2.0, 0.5))
    logits, binary, zeros = normal(3, seed=3), normal(3, seed=4), jnp.zeros(6)

    def loss(flat):
        return -2 * jax.nn.log_softmax(flat[:3])[1] + jnp.sum(jax.nn.softplus(flat[3:])) / 2

    root = lambda v: jnp.concatenate(joint.root((logits, binary), (v[:3], v[3:])))  # noqa: E731
    b = np.asarray(jax.jit(jax.jacobian(root))(zeros))
    np.testing.assert_allclose(b @ b.T, jax.jit(jax.hessian(loss))(jnp.concatenate([logits, binary])), atol=1e-14)
    many = tuple(jnp.broadcast_to(x, (100_000, *x.shape)) for x in (logits, binary))
    drawn = np.concatenate(jax.jit(joint.sample)(jax.random.key(0), many), axis=1)
    np.testing.assert_allclose(drawn.T @ drawn / len(drawn), b @ b.T, atol=0.02)
    with pytest.raises(ValueError, match="1 numbers for 2 likelihoods"):
        layers.joint(layers.categorical(), layers.bernoulli(), weights=(2.0,))


def test_sampled_factors_come_to_the_exact_ones_as_the_root_of_the_number_of_samples():
    model, x, likelihood = Deep(nn.tanh), normal(8, 4), layers.categorical()
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    exact = factors_of(model, params, x, likelihood)
    capture = linen.capture(model, {"params": params}, x)
    errors = {}
    for samples in (4, 256):
        f = layers.value_grad_factors(
            lambda params, x: capture.apply({"params": params}, x),
            lambda outputs, x: jnp.mean(outputs),
            capture,
            fisher=layers.sampled(likelihood, samples=samples),
        )
        jitted = jax.jit(f)
        trials = [jitted(params, x, key=jax.random.key(i))[2]["Dense_1"] for i in range(4)]
        true = exact["Dense_1"].outputs
        errors[samples] = np.mean([np.linalg.norm(t.outputs - true) / np.linalg.norm(true) for t in trials])
        np.testing.assert_allclose(trials[0].inputs, exact["Dense_1"].inputs, rtol=1e-12)
    assert errors[256] < 0.06
    assert 3 < errors[4] / errors[256] < 20


def test_factors_alone_are_those_that_come_with_the_gradient():
    model, x, key = Dense(2), normal(6, 3), jax.random.key(1)
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    capture = linen.capture(model, {"params": params}, x)
    forward = lambda params, x: capture.apply({"params": params}, x)  # noqa: E731
    for fisher in (layers.exact(layers.categorical()), layers.sampled(layers.categorical(), samples=2)):
        f = layers.value_grad_factors(forward, lambda outputs, x: jnp.mean(outputs), capture, fisher=fisher)
        g = layers.factors_alone(forward, capture, fisher=fisher)
        expected, alone = jax.jit(f)(params, x, key=key)[2], jax.jit(g)(params, x, key=key)
        chex.assert_trees_all_close(alone, expected, rtol=1e-14)
    with pytest.raises(ValueError, match="value_grad_factors"):
        layers.factors_alone(forward, capture, fisher=layers.empirical())


def test_any_sampler_of_cotangents_will_do():
    """Of a Laplace distribution, whose Fisher matrix is one: cotangents are signs."""
    likelihood = layers.Likelihood(lambda key, outputs: jax.random.rademacher(key, outputs.shape, outputs.dtype))
    model, x = Dense(2), normal(6, 3)
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    capture = linen.capture(model, {"params": params}, x)
    f = layers.value_grad_factors(
        lambda params, x: capture.apply({"params": params}, x),
        lambda outputs, x: jnp.mean(jnp.sum(jnp.abs(outputs), -1)),
        capture,
        fisher=layers.sampled(likelihood),
    )
    key = jax.random.key(1)
    drawn = likelihood.sample(key, jnp.zeros((6, 2)))
    (factors,) = jax.jit(f)(params, x, key=key)[2].values()
    np.testing.assert_allclose(factors.outputs[0], drawn.T @ drawn / 6, atol=1e-15)
    with pytest.raises(ValueError, match="likelihood with a root"):
        layers.exact(likelihood)
    with pytest.raises(ValueError, match="need a random key"):
        f(params, x)


def test_the_empirical_fisher_matrix_is_that_of_the_losses_own_gradients():
    model, x, y = Deep(nn.tanh, bias=True), normal(5, 4), jnp.arange(5) % 2
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]

    def loss(logits, x, y):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1))

    capture = linen.capture(model, {"params": params}, x)
    f = layers.value_grad_factors(
        lambda params, x, y: capture.apply({"params": params}, x), loss, capture, fisher=layers.empirical()
    )
    value, grads, factors = jax.jit(f)(params, x, y)

    def plain(params, x, y):
        return loss(model.apply({"params": params}, x), x, y)

    np.testing.assert_allclose(value, plain(params, x, y))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), grads, jax.jit(jax.grad(plain))(params, x, y)
    )
    # The gradient of one example by a bias is that by the layer's output.
    single = jax.jit(jax.vmap(lambda x, y: jax.grad(plain)(params, x[None], y[None])["Dense_2"]["bias"]))
    each = single(x, y)
    np.testing.assert_allclose(factors["Dense_2"].outputs[0], np.mean([np.outer(g, g) for g in each], 0), atol=1e-14)


def test_one_step_without_damping_solves_linear_least_squares():
    model, x, y = Dense(3), normal(20, 6), normal(20, 3, seed=1)
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    capture = linen.capture(model, {"params": params}, x)
    f = layers.value_grad_factors(
        lambda params, x, y: capture.apply({"params": params}, x),
        lambda outputs, x, y: jnp.mean(jnp.sum((outputs - y) ** 2, -1)) / 2,
        capture,
        fisher=layers.exact(layers.gaussian()),
    )
    _, grads, factors = jax.jit(f)(params, x, y)
    tx = precond.scale_by_kfac(capture.layers, damping=0.0, refresh=1)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), factors=factors)
    solution = np.linalg.lstsq(np.concatenate([x, np.ones((20, 1))], axis=1), y, rcond=None)[0]
    np.testing.assert_allclose(params["kernel"] - updates["kernel"], solution[:-1], atol=1e-11)
    np.testing.assert_allclose(params["bias"] - updates["bias"], solution[-1], atol=1e-11)

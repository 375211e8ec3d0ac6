"""A dense layer over a feature map by three factors: their definition by LAPACK, and what is made of them."""

import functools

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

F64 = {"param_dtype": jnp.float64}
N, POSITIONS, CHANNELS, WIDTH = 6, 4, 3, 5
SHARING = [("head", layers.doubly_factored(CHANNELS, steps=24))]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


class Net(nn.Module):
    """A wide layer over a map, that is flattened or contracted as it is, and one behind it."""

    flat: bool = True

    @nn.compact
    def __call__(self, x):
        head = nn.Dense(WIDTH, **F64, name="head") if self.flat else nn.DenseGeneral(WIDTH, (1, 2), **F64, name="head")
        x = head(x.reshape(len(x), -1) if self.flat else x)
        return nn.Dense(2, **F64, name="last")(nn.tanh(x))


class Twin(nnx.Module):
    """The same in nnx."""

    def __init__(self, params):
        made = {"rngs": nnx.Rngs(0), "param_dtype": jnp.float64}
        self.head = nnx.Linear(POSITIONS * CHANNELS, WIDTH, **made)
        self.last = nnx.Linear(WIDTH, 2, **made)
        for name, leaves in params.items():
            for key, value in leaves.items():
                getattr(getattr(self, name), key)[...] = value

    def __call__(self, x):
        return self.last(nnx.tanh(self.head(x.reshape(len(x), -1))))


def explicitly(params, x, capture):
    y = x.reshape(len(x), -1)
    y = capture.apply("head", params["head"], y @ params["head"]["kernel"] + params["head"]["bias"], y)
    y = jnp.tanh(y)
    return capture.apply("last", params["last"], y @ params["last"]["kernel"] + params["last"]["bias"], y)


# As a map of features is, with a mean: of each the second singular value is less than half of the first.
X, Y = 1.5 + normal(N, POSITIONS, CHANNELS) / 2, np.arange(N) % 2


def loss(logits, *_):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), Y[:, None], axis=1))


@functools.cache
def initial():
    params = jax.eval_shape(Net().init, jax.random.key(0), X)["params"]
    return jax.tree.map(lambda p: normal(*p.shape, seed=p.size), params)


def value_grad_factors(forward, capture, fisher=None, **kwargs):
    fisher = layers.exact(layers.categorical()) if fisher is None else fisher
    return jax.jit(layers.value_grad_factors(forward, loss, capture, fisher=fisher, **kwargs))


@functools.cache
def captured():
    """The capture of the linen model, and value, gradient and factors."""
    capture = linen.capture(Net(), {"params": initial()}, X, sharing=SHARING)
    f = value_grad_factors(lambda params, x: capture.apply({"params": params}, x), capture)
    return capture, f(initial(), X)


def halves(x):
    """K and Psi of each map, by LAPACK."""
    u, s, vt = np.linalg.svd(np.asarray(x))
    root = np.sqrt(s[:, :1])
    return root * u[:, :, 0], root * vt[:, 0]


def test_the_factors_are_the_moments_of_each_map_of_rank_one():
    k, psi = halves(X)
    over, channels = captured()[1][2]["head"].inputs
    np.testing.assert_allclose(over[0], k.T @ k / N, rtol=0, atol=1e-12)
    np.testing.assert_allclose(channels[0], psi.T @ psi / N, rtol=0, atol=1e-12)


def test_of_a_map_of_rank_one_the_kronecker_product_is_that_of_the_plain_factors():
    """Of one example; and of several whose maps have a vector and the length in common."""
    k, psi = normal(1, POSITIONS, 1), normal(N, 1, CHANNELS, seed=1)
    maps = k * psi / np.linalg.norm(psi, axis=2, keepdims=True)
    for x in (maps, 3 * maps[:1]):
        found = []
        for sharing in (layers.doubly_factored(CHANNELS), layers.expand):
            model = nn.Dense(WIDTH, use_bias=False, **F64)
            params = {"kernel": normal(POSITIONS * CHANNELS, WIDTH)}
            flat = x.reshape(len(x), -1)
            capture = linen.capture(model, {"params": params}, flat, sharing=sharing)
            f = layers.factors_alone(
                lambda params, x, capture=capture: capture.apply({"params": params}, x),
                capture,
                fisher=layers.exact(layers.categorical()),
            )
            found.append(jax.jit(f)(params, flat)[""])
        three, two = found
        doubly = np.kron(np.kron(three.inputs[0][0], three.inputs[1][0]), three.outputs[0])
        np.testing.assert_allclose(doubly, np.kron(two.inputs[0], two.outputs[0]), rtol=0, atol=1e-12)


def solved(block, factors, damping):
    """A block times the inverse of the Kronecker product of its factors, each damped by equations 10 to 12."""
    n, k = [np.trace(f) / len(f) for f in factors], len(factors)
    full = np.ones((1, 1))
    for i, factor in enumerate(factors):
        others = np.prod([m for j, m in enumerate(n) if j != i])
        pi = (n[i] ** (k - 1) / others) ** (1 / k)
        full = np.kron(full, np.asarray(factor) + pi * damping ** (1 / k) * np.eye(len(factor)))
    return np.linalg.solve(full, np.ravel(block)).reshape(np.shape(block))


def expected(grads, factors, damping):
    k, psi = halves(X)
    g = np.asarray(factors["head"].outputs[0])
    kernel = np.asarray(grads["head"]["kernel"]).reshape(POSITIONS, CHANNELS, WIDTH)
    kernel = solved(kernel, (k.T @ k / N, psi.T @ psi / N, g), damping).reshape(-1, WIDTH)
    last = np.concatenate([grads["last"]["kernel"], grads["last"]["bias"][None]])
    last = solved(last, (factors["last"].inputs[0], factors["last"].outputs[0]), damping)
    bias = solved(grads["head"]["bias"], (g,), damping)
    return {"head": {"kernel": kernel, "bias": bias}, "last": {"kernel": last[:-1], "bias": last[-1]}}


def assert_close(actual, wanted, tolerance=1e-10):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max()), actual, wanted
    )


@pytest.mark.parametrize("damping", [1e-2, pytest.param(1e-4, marks=pytest.mark.slow)])
def test_the_preconditioned_gradient_is_a_dense_solve_with_the_three_damped_factors(damping):
    capture, (_, grads, factors) = captured()
    tx = precond.scale_by_kfac(capture.layers, damping=damping, refresh=1)
    state = tx.init(grads)
    assert {"4x3x5", "5x(1)", "6x2"} == set(state.stacks.stacks.roots)
    updates, _ = jax.jit(tx.update)(grads, state, factors=factors)
    assert_close(updates, expected(grads, factors, damping))


def test_a_bias_may_be_alone_and_a_head_without_it():
    """By masks; they share no factor."""
    capture, (_, grads, factors) = captured()
    tx = precond.scale_by_kfac(capture.layers, damping=1e-2, refresh=1)
    wanted = expected(grads, factors, 1e-2)
    for name, other in (("kernel", "bias"), ("bias", "kernel")):
        mask = {"head": {name: True, other: False}, "last": False}
        masked = optax.masked(tx, mask)
        updates, _ = jax.jit(masked.update)(grads, masked.init(grads), factors=factors)
        assert_close(updates["head"][name], wanted["head"][name])
        np.testing.assert_array_equal(updates["head"][other], grads["head"][other])


def test_every_front_end_has_the_same_factors():
    params, (_, (_, _, factors)) = initial(), captured()
    plain = layers.explicit({"head": layers.dense(), "last": layers.dense()}, params, sharing=SHARING)
    model = Twin(params)
    twin = front.capture(model, X, sharing=SHARING)
    assert str(twin.coverage) == str(plain.coverage) == str(captured()[0].coverage)
    assert "contraction, doubly factored  4x4 + 3x3 + 5x5" in str(plain.coverage)
    _, own, rest = nnx.split(model, nnx.Param, ...)
    one = value_grad_factors(lambda params, x: explicitly(params, x, plain), plain)(params, X)[2]
    two = value_grad_factors(lambda params, rest, x: twin.apply(params, rest, x), twin, has_aux=True)(own, rest, X)[2]
    assert_close(one, factors, 1e-12)
    assert_close(two, factors, 1e-12)


def test_a_map_that_is_contracted_as_it_is_says_its_channels():
    params = initial()
    shaped = params | {"head": params["head"] | {"kernel": params["head"]["kernel"].reshape(POSITIONS, CHANNELS, -1)}}
    capture = linen.capture(
        Net(flat=False), {"params": shaped}, X, sharing=[("head", layers.doubly_factored(steps=24))]
    )
    f = value_grad_factors(lambda params, x: capture.apply({"params": params}, x), capture)
    assert_close(f(shaped, X)[2], captured()[1][2], 1e-12)


def test_the_bias_is_left_out_where_there_is_none_and_padding_counts_for_nothing():
    x, valid = 1 + normal(2, 4, 6) / 3, np.asarray([[True, True, True, False], [True, False, False, False]])
    model, params = nn.Dense(2, use_bias=False, **F64), {"kernel": normal(6, 2)}
    capture = linen.capture(model, {"params": params}, x, sharing=layers.doubly_factored(3, steps=24))
    f = layers.factors_alone(
        lambda params: capture.apply({"params": params}, x, valid=valid) * valid[..., None],
        capture,
        fisher=layers.exact(layers.gaussian()),
        examples=4,
    )
    (over, channels), _, _ = jax.jit(f)(params)[""]
    k, psi = halves(x[valid].reshape(4, 2, 3))
    np.testing.assert_allclose(over[0], k.T @ k / 4, rtol=0, atol=1e-12)
    np.testing.assert_allclose(channels[0], psi.T @ psi / 4, rtol=0, atol=1e-12)


def path(tx, step, params):
    """Parameters after two steps."""
    state = tx.init(params)
    for _ in range(2):
        params, state = step(params, state)
    return params


@pytest.mark.slow
def test_loops_that_pass_gradients_alone_and_those_that_accumulate_go_the_same_path():
    capture, _ = captured()
    make = functools.partial(precond.kfac, 0.3, damping=1e-2, bound=1e-1, refresh=1)
    forward = lambda params, x=X: capture.apply({"params": params}, x)  # noqa: E731
    f = value_grad_factors(forward, capture, layers.empirical())
    alone, band = make(capture.layers), make()
    twice = precond.accumulate(make(capture.layers), 2, layers=capture.layers)

    def passing(tx):
        @jax.jit
        def step(params, state):
            _, grads, factors = f(params)
            for _ in range(2 if tx is twice else 1):
                updates, state = tx.update(grads, state, params, factors=factors)
            return optax.apply_updates(params, updates), state

        return step

    @jax.jit
    def in_band(params, state):
        updates, state = band.update(jax.grad(lambda p: loss(forward(p)))(params), state, params)
        return optax.apply_updates(params, updates), state

    wanted = path(alone, passing(alone), initial())
    assert np.abs(wanted["head"]["bias"] - initial()["head"]["bias"]).max() > 1e-3
    assert_close(path(twice, passing(twice), initial()), wanted)
    assert_close(capture.detach(path(band, in_band, capture.attach(initial()))), wanted)


def test_ek_fac_refuses_it_and_says_what_else_to_do():
    capture, _ = captured()
    with pytest.raises(ValueError, match=r"doubly factored ones, \['head'\].*precond.kfac"):
        precond.ekfac(1.0, capture.layers)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, "channels=0: must be at least 1"),
        ((2.0,), TypeError, "channels=2.0: must be a whole number"),
        ((5,), ValueError, r"doubly_factored\(5\) for 'head/kernel': 5 channels do not divide its 12 inputs"),
        ((), ValueError, r"12 inputs are a single axis.*doubly_factored\(channels\)"),
    ],
)
def test_errors_say_what_to_do(arguments, error, message):
    with pytest.raises(error, match=message):
        linen.capture(Net(), {"params": initial()}, X, sharing=[("head", layers.doubly_factored(*arguments))])

"""Factors and preconditioned gradients of a convolutional network, against back-propagation written out in numpy."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import precond
from precond import layers
from precond.layers import linen

pytestmark = pytest.mark.usefixtures("x64")

N, CLASSES = 5, 4
# Of each kernel its size, strides, holes, and the padding before and behind, by dimension.
GEOMETRY = {"Conv_0": ((3, 3), (2, 1), (1, 1), ((1, 1), (1, 1))), "Conv_1": ((2, 2), (1, 1), (1, 2), ((0, 0), (0, 0)))}


class Cnn(nn.Module):
    @nn.compact
    def __call__(self, x):
        for name, features, bias in (("Conv_0", 3, True), ("Conv_1", 4, False)):
            size, strides, holes, padding = GEOMETRY[name]
            how = {"strides": strides, "kernel_dilation": holes, "padding": padding, "use_bias": bias}
            x = nn.tanh(nn.Conv(features, size, param_dtype=jnp.float64, **how)(x))
        return nn.Dense(CLASSES, param_dtype=jnp.float64)(x.reshape(len(x), -1))


def seen(shape, name):
    """For each position of the output which entries of the input are under the kernel, in its order; -1 is padding."""
    (h, w), (down, right), (hole, gap), padding = GEOMETRY[name]
    places = np.pad(np.arange(np.prod(shape)).reshape(shape), (*padding, (0, 0)), constant_values=-1)
    rows = range(0, places.shape[0] - (h - 1) * hole, down)
    columns = range(0, places.shape[1] - (w - 1) * gap, right)
    under = [places[r : r + (h - 1) * hole + 1 : hole, c : c + (w - 1) * gap + 1 : gap] for r in rows for c in columns]
    return np.stack([x.ravel() for x in under]), (len(rows), len(columns))


def forward(params, x):
    """One example's logits, and for each layer its inputs `[positions, i]`, its slope and what it sees of the last."""
    passed = []
    for name, leaves in params.items():
        index, shape = seen(x.shape, name) if name in GEOMETRY else (np.arange(x.size)[None], ())
        kernel = np.asarray(leaves["kernel"])
        rows = np.append(x.ravel(), 0)[index]  # the last entry is the padding's
        if "bias" in leaves:
            rows = np.append(rows, np.ones((len(rows), 1)), axis=1)
        s = rows @ matrix(leaves)
        x = np.tanh(s).reshape(*shape, kernel.shape[-1]) if name in GEOMETRY else s[0]
        passed.append((name, rows, 1 - np.tanh(s) ** 2 if name in GEOMETRY else 1, index))
    return x, passed


def backward(params, passed, delta):
    """The gradients by the layers' outputs, `[positions, o]`, from that by the logits."""
    out = {}
    for name, _, slope, index in reversed(passed):
        out[name] = delta.reshape(len(index), -1) * slope
        weights = np.asarray(params[name]["kernel"]).reshape(index.shape[1], -1)
        delta = np.zeros(index.max() + 2)
        np.add.at(delta, index, out[name] @ weights.T)
        delta = delta[:-1]
    return out


def matrix(leaves):
    kernel = np.asarray(leaves["kernel"])
    weights = kernel.reshape(-1, kernel.shape[-1])
    return np.append(weights, np.asarray(leaves["bias"])[None], axis=0) if "bias" in leaves else weights


def oracle(params, x, y):
    """A, G by their expectations over all targets, and the gradient of the mean loss, as matrices."""
    a, g, grads = (dict.fromkeys(params, 0.0) for _ in range(3))
    for one, target in zip(np.asarray(x), np.asarray(y), strict=True):
        logits, passed = forward(params, one)
        p = np.exp(logits) / np.exp(logits).sum()
        for k in range(CLASSES):
            for name, delta in backward(params, passed, p - np.eye(CLASSES)[k]).items():
                rows = next(rows for n, rows, _, _ in passed if n == name)
                g[name] = g[name] + p[k] * delta.T @ delta / N
                if k == target:
                    grads[name] = grads[name] + rows.T @ delta / N
        for name, rows, _, _ in passed:
            a[name] = a[name] + rows.T @ rows / len(rows) / N
    return a, g, grads


@pytest.fixture
def captured():
    return made()


@functools.cache
def made():
    """The capture, parameters, value with gradient and factors, and the oracle's."""
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.standard_normal((N, 7, 6, 2))), jnp.asarray(rng.integers(0, CLASSES, N))
    params = jax.jit(Cnn().init)(jax.random.key(0), x)["params"]
    capture = linen.capture(Cnn(), {"params": params}, x)
    f = layers.value_grad_factors(
        lambda params, x, y: capture.apply({"params": params}, x),
        lambda logits, x, y: -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1)),
        capture,
        fisher=layers.exact(layers.categorical()),
    )
    return capture, params, jax.jit(f)(params, x, y), oracle(params, x, y)


def test_the_factors_and_the_gradient(captured):
    _, params, (_, grads, factors), (a, g, slopes) = captured
    assert list(factors) == list(params) == ["Conv_0", "Conv_1", "Dense_0"]
    for name, found in factors.items():
        np.testing.assert_allclose(matrix(grads[name]), slopes[name], rtol=0, atol=1e-14)
        np.testing.assert_allclose(found.inputs[0], a[name], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(found.outputs[0], g[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("damping", [pytest.param(0.1, marks=pytest.mark.slow), 0.001])
def test_the_preconditioned_gradient(captured, damping):
    capture, params, (_, grads, factors), (a, g, slopes) = captured
    tx = precond.scale_by_kfac(capture.layers, damping=damping, refresh=1)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), factors=factors)
    for name in params:
        pi = np.sqrt((np.trace(a[name]) / len(a[name])) / (np.trace(g[name]) / len(g[name])))
        left = a[name] + pi * np.sqrt(damping) * np.eye(len(a[name]))
        right = g[name] + np.sqrt(damping) / pi * np.eye(len(g[name]))
        expected = np.linalg.solve(np.kron(left, right), slopes[name].ravel()).reshape(slopes[name].shape)
        np.testing.assert_allclose(matrix(updates[name]), expected, rtol=1e-10, atol=1e-12)

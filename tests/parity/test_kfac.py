"""Factors and preconditioned gradients of a small network, as computed independently in float64."""

from pathlib import Path

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import precond
from precond import layers
from precond.layers import linen

pytestmark = pytest.mark.usefixtures("x64")

GOLDEN = Path(__file__).parent / "golden" / "kfac_mlp_exact_fisher.npz"


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(7, param_dtype=jnp.float64)(x))
        x = nn.tanh(nn.Dense(6, use_bias=False, param_dtype=jnp.float64)(x))
        return nn.Dense(4, param_dtype=jnp.float64)(x)


def tree(golden, prefix):
    """The arrays `prefix/layer/name` as a nested dictionary."""
    out = {}
    for key in golden.files:
        head, _, rest = key.partition("/")
        if head == prefix:
            layer, _, name = rest.partition("/")
            out.setdefault(layer, {})[name] = jnp.asarray(golden[key])
    return out


def cross_entropy(logits, x, y):
    del x
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1))


@pytest.fixture
def golden():
    with np.load(GOLDEN) as data:
        yield data


@pytest.fixture
def captured(golden):
    params, x, y = tree(golden, "param"), jnp.asarray(golden["x"]), jnp.asarray(golden["y"])
    capture = linen.capture(Mlp(), {"params": params}, x)
    f = layers.value_grad_factors(
        lambda params, x, y: capture.apply({"params": params}, x),
        cross_entropy,
        capture,
        fisher=layers.exact(layers.categorical()),
    )
    _, grads, factors = jax.jit(f)(params, x, y)
    return capture, params, grads, factors


def test_the_gradient_and_the_factors(golden, captured):
    _, _, grads, factors = captured
    chex.assert_trees_all_close(grads, tree(golden, "grad"), rtol=0, atol=1e-14)
    for name, (a, g, _) in factors.items():
        np.testing.assert_allclose(a[0], golden[f"A/{name}"], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(g[0], golden[f"G/{name}"], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("damping", [0.1, 0.001])
def test_the_preconditioned_gradient(golden, captured, damping):
    capture, params, grads, factors = captured
    tx = precond.scale_by_kfac(capture.layers, damping=damping, refresh=1)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), factors=factors)
    expected = tree(golden, f"preconditioned_{damping}")
    chex.assert_trees_all_close(updates, expected, rtol=1e-10, atol=1e-12)

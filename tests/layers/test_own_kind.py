"""A kind of layer of one's own: one class, and a row in each front end, against the dense Fisher matrix."""

import ast
import dataclasses
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import precond
from precond import layers
from precond.layers import linen
from precond.layers import nnx as front

N, POSITIONS, CHANNELS = 4, 5, 3


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


@dataclasses.dataclass(frozen=True)
class Gain(layers.Kind):
    """Describe y = w x by channel, with the whole Fisher matrix of w."""

    bias: bool = False
    weights_name = "gain"

    def layer(self, kernel, bias, shape):
        return layers.Layer(kernel, bias, len(shape) - 1, shape[-1:], groups=(), inputs=(0,), outputs=())

    def signals(self, x, g, batch):
        examples = x.shape[0] if batch else 1
        each = (x.astype(g.dtype) * g).reshape(examples, -1, x.shape[-1]).sum(1)
        return layers.Signals(each[:, None, None], None)


class Gained(nn.Module):
    @nn.compact
    def __call__(self, x):
        return self.param("gain", nn.initializers.ones, x.shape[-1:], jnp.float64) * x


class Twin(nnx.Module):
    def __init__(self):
        self.gain = nnx.Param(jnp.ones(CHANNELS))

    def __call__(self, x):
        return self.gain * x


X, BEHIND = normal(N, POSITIONS, CHANNELS), normal(CHANNELS, CHANNELS, seed=1)


def of_linen():
    model = Gained()
    variables = model.init(jax.random.key(0), X)
    rules = {Gained: lambda m, x, args: layers.LayerSpec(Gain(), "gain")}
    capture = linen.capture(model, variables, X, rules=rules)
    return capture, variables["params"], lambda params: capture.apply({"params": params}, X)


def of_nnx():
    model = Twin()
    capture = front.capture(model, X, rules={Twin: lambda m: layers.LayerSpec(Gain(), "gain")})
    _, params, rest = nnx.split(model, nnx.Param, ...)
    return capture, params, lambda params: capture.apply(params, rest, X)[0]


def of_plain_jax():
    params = {"gain": jnp.ones(CHANNELS)}
    capture = layers.explicit({"": Gain()}, params)
    return capture, params, lambda params: capture.apply("", params, params["gain"] * X, X)


@pytest.mark.parametrize("make", [of_linen, of_nnx, of_plain_jax])
def test_its_factor_is_the_exact_fisher_matrix_and_the_optimizer_inverts_it(make):
    capture, params, forward = make()
    assert "gain, expand" in str(capture.coverage)
    f = layers.value_grad_factors(
        lambda params: forward(params) @ BEHIND,
        lambda outputs: jnp.sum(jnp.sin(outputs)) / N,
        capture,
        fisher=layers.exact(layers.gaussian()),
    )
    _, grads, factors = jax.jit(f)(params)
    jacobian = np.asarray(jax.jacobian(lambda gain: (gain * X) @ BEHIND)(jnp.ones(CHANNELS)))
    fisher = np.einsum("ntoi,ntoj->ij", jacobian, jacobian) / N
    np.testing.assert_allclose(factors[""].inputs[0], fisher, rtol=1e-12)
    assert factors[""].outputs is None
    (gradient,) = jax.tree.leaves(grads)
    tx = precond.scale_by_kfac(capture.layers, root=precond.eigen_inverse(0.1), refresh=1)
    (update,) = jax.tree.leaves(jax.jit(tx.update)(grads, tx.init(params), params, factors=factors)[0])
    expected = np.linalg.solve(fisher + 0.1 * np.eye(CHANNELS), np.asarray(gradient))
    np.testing.assert_allclose(update, expected, rtol=1e-10)


def test_the_self_check_finds_signals_that_are_not_those_of_the_layer():
    class Wrong(Gain):
        def signals(self, x, g, batch):
            return super().signals(x**2, g, batch)

    rules = {Gained: lambda m, x, args: layers.LayerSpec(Wrong(), "gain")}
    model = Gained()
    with pytest.raises(ValueError, match="its signals miss"):
        linen.capture(model, model.init(jax.random.key(0), X), X, rules=rules)


def test_nothing_outside_of_the_kinds_and_the_front_ends_names_one():
    rules = {"__init__", "convolutions", "linen", "nnx"}
    files = [f for f in Path(layers.__file__).parent.glob("*.py") if f.stem not in rules]
    named = {
        alias.name
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("precond.layers.kinds")
        for alias in node.names
    }
    assert named == {"Kind", "under_sharing"}


def test_a_kind_without_signals_cannot_be_made():
    class Half(layers.Kind):
        bias = False

        def layer(self, kernel, bias, shape):
            return layers.Layer(kernel, bias, 0, shape, (), (0,), (1,))

    with pytest.raises(TypeError, match="signals"):
        Half()

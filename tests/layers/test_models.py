"""A matrix of networks: each layer's signals make its gradient and its factors, or it is named with a reason."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import precond
from precond import layers
from precond.blocks import Probe, leaves_of, spread_layer_axes
from precond.layers import linen
from precond.layers.bases_of import _as_in_probe
from tests.layers import models

QUICK = (
    "mlp",
    "cnn_dilated",
    "cnn_depthwise",
    "transposed_wide_stride",
    "transposed_kernel",
    "transformer_scanned",
    "embedding",
    "tied_embedding",
    "weight_norm",
    "subclass",
    "position_table",
    "mixed_precision",
    "frozen",
    "scanned_over_another_axis",
    "spectral_norm",
    "attending_alone",
)
"""The others take long to compile."""


def everything(path):
    return True


def marked(case):
    return pytest.param(case, marks=() if case.name in QUICK else pytest.mark.slow)


@pytest.mark.parametrize("case", [marked(c) for c in models.LINEN], ids=lambda case: case.name)
def test_every_parameter_has_factors_or_a_reason(case):
    module, x = case.make(), case.input()
    variables = jax.jit(module.init)(jax.random.key(0), x)
    params, state = variables["params"], {k: v for k, v in variables.items() if k != "params"}
    # The self-check, to rounding.
    tolerance = {"mixed_precision": 5e-3, "narrow_parameters": 2e-2}.get(case.name, 1e-12)
    capture = linen.capture(module, variables, x, allow_uncovered=everything, tolerance=tolerance, **case.kwargs)
    missing = capture.coverage.missing
    for part, reason in case.missing.items():
        assert any(part in path and reason in why for path, why in missing.items()), missing
    assert all(any(part in path for part in case.missing) for path in missing), missing
    owned = {path for layer in capture.layers.values() for path in (layer.kernel, layer.bias)} - {None}
    assert owned | set(missing) == set(leaves_of(params))

    def run(params):
        return capture.apply(state | {"params": params}, x, **case.kwargs)

    # A model that carries probes computes what it computes without.
    with_probes = jax.jit(lambda p: run(capture.attach(p)))(params)
    without = jax.jit(lambda p: module.apply(state | {"params": p}, x, **case.kwargs))(params)
    chex.assert_trees_all_close(with_probes, without, rtol=1e-12, atol=1e-12)


def test_a_parameter_without_factors_is_an_error_that_shows_the_table_unless_it_is_named():
    x = jnp.ones((3, 5, 4))
    module = models.Function(models.positions)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"Position_0/table \(no rule for Position\).*allow_uncovered=") as error:
        linen.capture(module, variables, x)
    assert "Dense_0" in str(error.value)
    capture = linen.capture(module, variables, x, allow_uncovered=["table$"])
    assert list(capture.layers) == ["Dense_0"]


def test_shapes_are_enough_without_the_check():
    module, x = models.Function(models.mlp), jnp.ones((4, 6))
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    capture = linen.capture(module, variables, shape, tolerance=None)
    assert list(capture.layers) == ["Dense_0", "Dense_1"]
    assert capture.coverage == linen.capture(module, variables, x, tolerance=None).coverage


def test_a_module_of_ones_own_gets_a_rule():
    x = jnp.ones((4, 6))
    module = models.Function(lambda x: models.MyDense(3, **models.F64)(x))
    variables = module.init(jax.random.key(0), x)
    rules = {models.MyDense: lambda module, x, args: layers.LayerSpec(layers.dense())}
    assert list(linen.capture(module, variables, x, rules=rules).layers) == ["MyDense_0"]


class Scanned(nn.Module):
    """As many layers as features, so that the shapes of the weights do not tell over which axis they are stacked."""

    axis: int

    @nn.compact
    def __call__(self, x):
        def layer(_, x, nothing):
            return x + nn.tanh(models.Dense(4, name="dense")(nn.LayerNorm(**models.F64, name="norm")(x))), None

        over = {"variable_axes": {"params": self.axis}, "split_rngs": {"params": True}, "length": 4}
        return nn.scan(layer, **over)(self, x, None)[0]


def test_k_fac_of_a_stack_over_another_axis_is_that_of_a_stack_over_the_first():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4)))
    params = jax.jit(Scanned(0).init)(jax.random.key(0), x)["params"]
    found = {}
    for axis in (0, -1):
        tree = jax.tree.map(lambda p, axis=axis: jnp.moveaxis(p, 0, axis), params)
        capture = linen.capture(Scanned(axis), {"params": tree}, x)
        tx = precond.kfac(1e-2, capture.layers)

        @jax.jit
        def updates(tree, capture=capture, tx=tx):
            f = layers.value_grad_factors(
                lambda p, x: capture.apply({"params": p}, x),
                lambda y, x: jnp.mean(jnp.sum(y, 1) ** 2),
                capture,
                fisher=layers.empirical(),
            )
            _, grads, factors = f(tree, x)
            return tx.update(grads, tx.init(tree), tree, factors=factors)[0]

        found[axis] = jax.tree.map(lambda u, axis=axis: jnp.moveaxis(u, axis, 0), updates(tree))
    assert {layer.layer_axes for layer in capture.layers.values()} == {
        (2,),
        (1,),
    }  # of the dense layer, and of the norm
    chex.assert_trees_all_close(found[-1], found[0], rtol=1e-10)


def test_bases_come_back_to_the_probes_of_a_stack_over_another_axis():
    layer = layers.Layer("kernel", None, 1, (2, 3, 5), (0,), (1,), (2,), layer_axes=(1,))  # two groups, four layers
    rng = np.random.default_rng(0)
    own = jnp.asarray(rng.standard_normal((4, 2, 3, 3)))
    sums = {
        "inputs": spread_layer_axes(own, (1,), 4),
        "outputs": jnp.ones((50, 4, 1, 1)),
        "rows": jnp.ones((1, 4, 1, 1)),
    }
    batch = Probe(layer, sums).factors(examples=1).inputs
    np.testing.assert_array_equal(batch, jnp.swapaxes(own, 0, 1).reshape(8, 3, 3))  # as in [2, 4, 3, 5]
    np.testing.assert_array_equal(_as_in_probe(batch, layer, (2, 4, 3, 5)), sums["inputs"])

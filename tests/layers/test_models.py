"""A matrix of networks: each layer's signals make its gradient and its factors, or it is named with a reason."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precond import layers
from precond.layers import linen
from precond.layers.nested import leaves_of
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
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), with_probes, without)


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
    rules = {models.MyDense: lambda module, x, args: layers.Found(layers.dense())}
    assert list(linen.capture(module, variables, x, rules=rules).layers) == ["MyDense_0"]


@pytest.mark.parametrize("axis", [1, -1])
def test_a_stack_over_another_axis_says_what_to_write_where_its_shape_does_not_tell(axis):
    """As many layers as features, so that the weights' shape is that of a stack over the first axis."""
    over = {"variable_axes": {"params": axis}, "split_rngs": {"params": True}, "length": 4}
    module = models.Function(lambda x: models.Dense(2)(nn.scan(models.Layer, **over)()(x, None)[0]))
    x = jnp.ones((3, 4))
    variables = module.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"over another axis than the first: write nn.scan\(.*'params': 0"):
        linen.capture(module, variables, x)
    assert list(linen.capture(module, variables, x, allow_uncovered=["Scan"]).layers) == ["Dense_0"]

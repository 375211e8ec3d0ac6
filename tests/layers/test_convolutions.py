"""Convolutions of every geometry by KFC and by the cheap factors, from patches that are cut out in numpy."""

import itertools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precond import layers
from precond.layers import linen

N = 3


class Geometry(NamedTuple):
    """A convolution in words of its own: where each patch starts, and which entries of the input it takes.

    Attributes:
      space: of the input.
      kernel: likewise of the kernel; strides, holes and padding by dimension.
      zeros: how far the input's entries are pulled apart (the strides of a transposed convolution).
      mode: of `np.pad`.
      how: the same for Flax.
    """

    space: tuple[int, ...]
    kernel: tuple[int, ...]
    how: dict[str, Any]
    padding: tuple[tuple[int, int], ...]
    strides: tuple[int, ...] = (1, 1)
    holes: tuple[int, ...] = (1, 1)
    zeros: tuple[int, ...] = (1, 1)
    groups: int = 1
    mode: str = "constant"
    module: type = nn.Conv

    def patches(self, x):
        """Of an input `[n, *space, c]`, `[n, t, groups, i]`, and the shape of the positions."""
        k = len(self.kernel)
        wide = np.zeros((len(x), *((d - 1) * z + 1 for d, z in zip(self.space, self.zeros, strict=False)), x.shape[-1]))
        wide[(slice(None), *(slice(None, None, z) for z in self.zeros[:k]))] = x
        wide = np.pad(wide, ((0, 0), *self.padding, (0, 0)), mode=self.mode)
        spans = [(size - 1) * hole + 1 for size, hole in zip(self.kernel, self.holes, strict=False)]
        starts = [range(0, d - s + 1, by) for d, s, by in zip(wide.shape[1:], spans, self.strides, strict=False)]
        cut = []
        for corner in itertools.product(*starts):
            windows = [slice(a, a + s, hole) for a, s, hole in zip(corner, spans, self.holes, strict=False)]
            patch = wide[(slice(None), *windows)].reshape(len(x), -1, self.groups, x.shape[-1] // self.groups)
            cut.append(np.swapaxes(patch, 1, 2).reshape(len(x), self.groups, -1))
        return np.stack(cut, axis=1), tuple(map(len, starts))


SAME = ((1, 1), (1, 1))
GEOMETRIES = {
    "one_dimension": Geometry((5,), (3,), {"padding": "CAUSAL"}, ((2, 0),)),
    "strided": Geometry((6, 5), (3, 3), {"strides": (2, 1), "padding": SAME}, SAME, strides=(2, 1)),
    "dilated": Geometry((6, 5), (3, 2), {"kernel_dilation": (2, 1), "padding": "VALID"}, ((0, 0),) * 2, holes=(2, 1)),
    "grouped": Geometry((4, 3), (3, 3), {"feature_group_count": 2}, SAME, groups=2),
    "depthwise": Geometry((4, 3), (3, 3), {"feature_group_count": 4, "use_bias": False}, SAME, groups=4),
    "circular": Geometry((4, 3), (3, 3), {"padding": "CIRCULAR"}, SAME, mode="wrap"),
    "reflecting": Geometry((4, 3), (3, 3), {"padding": "REFLECT"}, SAME, mode="reflect"),
    "three_dimensions": Geometry(
        (3, 2, 4), (2, 1, 3), {"padding": "VALID"}, ((0, 0),) * 3, (1,) * 3, (1,) * 3, (1,) * 3
    ),
    "transposed": Geometry(
        (3, 2), (3, 3), {"strides": (2, 1), "padding": "VALID"}, ((2, 2),) * 2, zeros=(2, 1), module=nn.ConvTranspose
    ),
    "transposed_same": Geometry(
        (3, 2), (3, 2), {"strides": (2, 1)}, ((2, 1), (1, 0)), zeros=(2, 1), module=nn.ConvTranspose
    ),
}


def mean_products(x):
    """`E[x x^T]` by group, over all axes but the last two."""
    rows = x.reshape(-1, *x.shape[-2:])
    return np.einsum("nri,nrj->rij", rows, rows) / len(rows)


def products(a, g):
    return [np.kron(left, right) for left, right in zip(a, g, strict=True)]


@pytest.mark.parametrize("name", GEOMETRIES)
def test_expand_is_kfc_and_reduce_the_cheap_factors_of_ba_et_al(name):
    shape, rng = GEOMETRIES[name], np.random.default_rng(0)
    x = rng.standard_normal((N, *shape.space, 4))
    model = shape.module(4, shape.kernel, param_dtype=jnp.float64, **shape.how)
    patches, positions = shape.patches(x)
    biased = shape.how.get("use_bias", True)
    ones = np.ones((*patches.shape[:-1], int(biased)))
    params = jax.tree.map(
        lambda p: jnp.asarray(rng.standard_normal(p.shape)),
        jax.eval_shape(model.init, jax.random.key(0), x)["params"],
    )
    slopes = rng.standard_normal((N, *positions, 4))  # the gradients by the outputs, of each example's loss

    def both(params):
        found = []
        for sharing in (layers.expand, layers.reduce):
            capture = linen.capture(model, {"params": params}, x, sharing=sharing, tolerance=None)
            f = layers.value_grad_factors(
                lambda params, capture=capture: capture.apply({"params": params}, x),
                lambda outputs: jnp.sum(outputs * slopes) / N,
                capture,
                fisher=layers.empirical(),
            )
            found.append(f(params)[2][""])
        return model.apply({"params": params}, x), found

    outputs, (kfc, cheap) = jax.jit(both)(params)
    kernel = np.asarray(params["kernel"]).reshape(-1, shape.groups, 4 // shape.groups)
    made = np.einsum("ntri,iro->ntro", patches, kernel).reshape(outputs.shape) + (params["bias"] if biased else 0)
    np.testing.assert_allclose(made, outputs, atol=1e-12)  # the patches are what the layer multiplies

    a, g = np.concatenate([patches, ones], axis=-1), slopes.reshape(N, -1, shape.groups, 4 // shape.groups)
    t = g.shape[1]
    equation_15 = t * np.asarray(products(mean_products(a), mean_products(g)))
    np.testing.assert_allclose(products(kfc.inputs, kfc.outputs), equation_15, rtol=0, atol=1e-12)
    bars = t**2 * np.asarray(products(mean_products(a.mean(1)), mean_products(g.mean(1))))
    np.testing.assert_allclose(products(cheap.inputs, cheap.outputs), bars, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("groups", "axis"), [(2, 1), (2, -1), (4, 1)])
def test_groups_that_are_stacked_over_a_later_axis_say_what_to_write(groups, axis):
    class Cell(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.Conv(4, (3,), feature_group_count=groups)(x), None

    scan = nn.scan(Cell, variable_axes={"params": axis}, split_rngs={"params": True}, length=3)()
    x = jnp.ones((2, 5, 4))
    variables = jax.eval_shape(scan.init, jax.random.key(0), x, None)
    with pytest.raises(ValueError, match=r"its groups .*write nn.scan\(.., variable_axes={'params': 0}\)"):
        linen.capture(scan, variables, x, None)

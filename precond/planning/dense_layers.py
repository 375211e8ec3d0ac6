"""Describe what K-FAC would capture of a model of which only the shapes are known."""

import math
from typing import Any, NamedTuple

import jax

from precond.arguments import check_whole
from precond.blocks import Layer, default_views, leaves_of
from precond.layers import LayerFactors, LayerSpec, dense, explicit

__all__ = ["DenseLayers", "dense_layers"]


class DenseLayers(NamedTuple):
    """Hold the layers of a model, and the shapes of their factors.

    Attributes:
      layers: the layers by path, for `precond.kfac`.
      factors: the factors by path, for `precond.plan(extra={"factors": factors})`.
      left: paths of matrices with a side that is too long.
    """

    layers: dict[str, Layer]
    factors: dict[str, LayerFactors]
    left: tuple[str, ...]


# Longer than the perceptron of the largest Llama (28672), shorter than the vocabularies in use (32000 and more).
_LONGEST = 30000


def dense_layers(params: Any, *, longest: int = _LONGEST) -> DenseLayers:
    """Find the layers that K-FAC would precondition in a tree of parameters, and the shapes of their factors.

    Every parameter that `precond.views.default` reads as a matrix counts as the weights of a dense layer. The `bias`
    beside it belongs to the layer. A convolution has the factors of the dense layer that sees one patch. Leading axes
    that do not belong to the matrix, such as that of experts, number layers of the same size.

    Args:
      params: nested dictionaries of anything with shape and dtype.
      longest: a layer with more inputs or outputs than this, such as an output head over a vocabulary, is left to the
        optimizer's `otherwise=`: its factor would be that many numbers squared.

    Returns:
      The layers, their factors and what was left out.

    Raises:
      ValueError, TypeError: for a tree without such layers, or a longest side that is not a positive integer.

    Examples:
      >>> array = lambda *shape: jax.ShapeDtypeStruct(shape, "float32")
      >>> found = dense_layers(
      ...     {
      ...         "up": {"kernel": array(48, 32), "bias": array(32)},
      ...         "norm": {"scale": array(48)},
      ...     }
      ... )
      >>> # The bias counts as one more input.
      >>> (
      ...     found.factors["up"].inputs.shape,
      ...     found.factors["up"].outputs.shape,
      ... )
      ((1, 49, 49), (1, 32, 32))
    """
    check_whole("longest", longest, least=1)
    kinds, left = {}, []
    paths = leaves_of(params)
    for path, leaf in paths.items():
        view = default_views(path, leaf)
        if view is None:
            continue
        rows, columns = ((axis,) if isinstance(axis, int) else axis for axis in view.axes)
        if view.shape is not None:  # several matrices side by side are one layer: their inputs are the same
            rows, columns = (leaf.ndim - 2,), (leaf.ndim - 1,)
        if max(math.prod(leaf.shape[d] for d in side) for side in (rows, columns)) > longest:
            left.append(path)
            continue
        layer, _, weights = path.rpartition("/")
        bias = f"{layer}/bias".removeprefix("/") in paths
        kinds[layer] = LayerSpec(dense(bias, inputs=len(rows), outputs=len(columns)), weights)
    if not kinds:
        raise ValueError("K-FAC needs layers, and none of these parameters is the weights of a dense layer.")
    capture = explicit(kinds, params, allow_uncovered=lambda path: True)
    factors = jax.eval_shape(lambda: capture.factors(capture.probes(params), 1))
    return DenseLayers(capture.layers, factors, tuple(left))

"""Find over which axes of its parameters a layer is stacked by scans and maps, from shapes."""

import itertools
from collections.abc import Sequence

from precond.blocks import Layer
from precond.layers.kinds import Kind

__all__ = ["Stacking", "stacked_layer", "stackings"]

_INSTEAD = "write nn.scan(.., variable_axes={'params': 0}), or 0 for its axis with nnx"

Stacking = tuple[tuple[int, ...], tuple[int, ...] | None]
"""The axes of the weights and of the bias (None for no bias) over which layers are stacked."""


def stackings(outer: tuple[int, ...], inner: tuple[int, ...] | None, bias: tuple[int, ...] | None) -> list[Stacking]:
    """Return all ways in which a layer may be stacked, the first axes first.

    Args:
      outer: the shape of its weights among the parameters.
      inner: the shape of its weights where it is called; None if it is not known.
      bias: the shape of its bias among the parameters, or None.

    Returns:
      A list that is empty if the shapes do not fit one another. More than one entry means that the shapes alone do not
      say which axes they are.

    Examples:
      >>> stackings((4, 6, 5), (4, 5), (5, 6)), stackings((4, 4, 4), (4, 4), None)
      ([((1,), (1,))], [((0,), None), ((1,), None), ((2,), None)])
    """
    if inner is None:
        return [((), None if bias is None else ())]
    found: list[Stacking] = []
    for axes in itertools.combinations(range(len(outer)), len(outer) - len(inner)):
        if tuple(d for i, d in enumerate(outer) if i not in axes) != inner:
            continue
        if bias is None:
            found.append((axes, None))
            continue
        # The same axes, counted from the front or from the end.
        for own in (axes, tuple(i - len(outer) + len(bias) for i in axes)):
            fits = all(0 <= i < len(bias) and bias[i] == outer[j] for i, j in zip(own, axes, strict=True))
            if fits and (axes, own) not in found:
                found.append((axes, own))
    return found


def stacked_layer(kind: Kind, weights: str, bias: str | None, shape: tuple[int, ...], stacking: Stacking) -> Layer:
    """Return the layer of a kind whose parameters are stacked.

    Args:
      kind: the kind of the layer.
      weights: path of the weights.
      bias: path of the bias, or None.
      shape: the shape of the weights among the parameters.
      stacking: one of `stackings`.

    Raises:
      ValueError: if the matrices of weights and bias would not come in one order, as for a grouped convolution.

    Examples:
      >>> from precond.layers.kinds import dense
      >>> stacked_layer(dense(False), "kernel", None, (4, 6, 5), ((1,), None)).layer_axes
      (1,)
    """
    axes, own = stacking
    if axes == tuple(range(len(axes))) and own in (None, axes):
        layer = kind.layer(weights, bias, shape)
        if layer.layer_ndim < 0:
            raise ValueError(
                f"its weights '{weights}' of shape {shape} have fewer axes than a {kind.label('layer')} needs"
            )
        return layer
    inner = tuple(d for i, d in enumerate(shape) if i not in axes)
    layer = kind.layer(weights, bias, (*(shape[i] for i in axes), *inner))
    layer = _without_axes_of_one(layer, inner)._replace(layer_axes=axes, bias_layer_axes=own)
    groups = {layer.places[i]: k for k, i in enumerate(layer.groups)}
    if own is not None and groups:
        # The bias has the axes of the groups, then those of the outputs, and those of the stack among them.
        rest = [i for i in range(len(own) + len(groups) + len(layer.outputs)) if i not in own]
        order = sorted((*own, *rest[: len(groups)]))
        names = {**dict(zip(own, axes, strict=True)), **dict(zip(rest, sorted(groups), strict=False))}
        if [names[i] for i in order] != sorted((*axes, *groups)):
            raise ValueError(
                f"its groups and the layers of its stack come in one order in its weights and in another in its bias: "
                f"{_INSTEAD}"
            )
    return layer


def _without_axes_of_one(layer: Layer, inner: Sequence[int]) -> Layer:
    """Return a layer whose `shape` is that of its weights, without the axes of size 1 that it has beside."""
    kept: list[int] = []
    for i, d in enumerate(layer.shape):
        if len(kept) < len(inner) and d == inner[len(kept)]:
            kept.append(i)
        elif d != 1:
            raise ValueError(
                f"its groups are parts of an axis, and the first axis is not that of its stack: {_INSTEAD}"
            )
    places = {i: k for k, i in enumerate(kept)}

    def moved(axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(places[i] for i in axes if i in places)

    groups, inputs, outputs = map(moved, (layer.groups, layer.inputs, layer.outputs))
    return layer._replace(shape=tuple(inner), groups=groups, inputs=inputs, outputs=outputs)

"""Assembling a capture of the layers that a front end found."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from precond.arguments import shown
from precond.layers.capture import Capture
from precond.layers.check_patterns import check_patterns
from precond.layers.coverage import Coverage, Row
from precond.layers.kinds import Kind, under_sharing
from precond.layers.nested import leaves_of
from precond.layers.sharing import Sharing, expand
from precond.layers.tap import Tap
from precond.trees import Leaf, Tree

__all__ = ["STACKED_ELSEWHERE", "Bind", "Found", "assemble", "may_be_stacked_elsewhere", "sharing_of"]

Bind = Callable[[Mapping[str, Tap]], Callable[..., Any]]
"""A function that makes the `apply` of a capture from the taps by path."""


STACKED_ELSEWHERE = (
    "its weights are scanned, mapped or stacked over another axis than the first: write nn.scan(.., "
    "variable_axes={'params': 0}), or 0 for its axis with nnx, and move weights that you have by jnp.moveaxis(x, 1, 0)"
)
"""Why a layer whose stack is not over the first axis has no factors, and what to write."""


class Found(NamedTuple):
    """Say what a front end's rule found: the kind of a layer, and the names of its parameters.

    Attributes:
      kind: of the layer.
      weights: the name of its weights among its parameters.
      bias: the name of its bias, used if the kind has one.
      shape: of the weights where the layer is called. They must be the last axes of the weights among the parameters,
        whose first axes are those of scans and maps. None does not compare.
    """

    kind: Kind
    weights: str = "kernel"
    bias: str = "bias"
    shape: tuple[int, ...] | None = None


def sharing_of(sharing: Sharing | Sequence[tuple[str, Sharing]]) -> Callable[[str], Sharing]:
    """Return a function from a layer's path to its sharing rule.

    Args:
      sharing: one rule for all layers, or pairs of a regular expression and a rule. The first expression that is found
        in a path decides; a layer without one expands.

    Examples:
      >>> from precond.layers.sharing import reduce
      >>> sharing_of([("conv", reduce)])("conv_1") is reduce
      True
    """
    if callable(sharing):
        return lambda path: sharing
    for pair in sharing:
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and callable(pair[1])):
            raise TypeError(
                f"sharing= has {shown(pair)}, where a pair of a regular expression and precond.layers.expand or "
                f"precond.layers.reduce belongs."
            )
    pairs = [(re.compile(pattern), rule) for pattern, rule in sharing]
    return lambda path: next((rule for pattern, rule in pairs if pattern.search(path)), expand)


def assemble(
    found: Mapping[str, Found],
    reasons: Mapping[str, str],
    params: Tree,
    bind: Bind,
    *,
    sharing: Sharing | Sequence[tuple[str, Sharing]],
    batch: int,
) -> Capture:
    """Return a capture of the layers that a front end found.

    Args:
      found: by path.
      reasons: why the modules at other paths are not tapped.
      params: the model's parameters.
      bind: from the taps by path to the `apply` of the capture.
      sharing: as in `sharing_of`.
      batch: as in `Tap`.
    """
    leaves, rule = leaves_of(params), sharing_of(sharing)
    if not callable(sharing):
        check_patterns("sharing", [pattern for pattern, _ in sharing], sorted(found))
    layers, taps, rows = {}, {}, []
    for path, layer in sorted(found.items()):
        try:
            kind, weights, bias = _located(leaves, f"{path}/" if path else "", layer)
        except ValueError as why:
            reasons = {**reasons, path: str(why)}
            continue
        kernel, how = leaves[weights], rule(path)
        kind = under_sharing(kind, kind.layer(weights, bias, tuple(kernel.shape)), how)
        layers[path] = kind.layer(weights, bias, tuple(kernel.shape))
        taps[path] = Tap(kind, how, batch)
        rows.append(Row.of(path, layers[path], taps[path], kernel))
    owned = {x for layer in layers.values() for x in (layer.kernel, layer.bias)}
    for path, leaf in leaves.items():
        if path not in owned:
            rows.append(Row(path, "", "", 0, _reason(path, reasons), leaf.size))
    return Capture(layers, taps, Coverage(tuple(rows)), bind(taps))


def _located(leaves: Mapping[str, Leaf], place: str, found: Found) -> tuple[Kind, str, str | None]:
    """Return a layer's kind, and the paths of its weights and bias among the parameters."""
    kind, weights, bias = found.kind, place + found.weights, place + found.bias
    if weights not in leaves:
        raise ValueError("the weights of its layer are those of another one, or no parameters")
    inner, outer = found.shape, tuple(leaves[weights].shape)
    if inner is not None and outer[len(outer) - len(inner) :] != inner:
        raise ValueError(STACKED_ELSEWHERE)
    if not kind.bias:
        return kind, weights, None
    return (kind, weights, bias) if bias in leaves else (kind.without_bias(), weights, None)


def may_be_stacked_elsewhere(path: str, found: Found, params: Tree) -> bool:
    """Return whether the shape of a layer's weights fits a stack over another axis as well as one over the first.

    Args:
      path: of the layer.
      found: what a rule found there.
      params: the model's parameters.

    Examples:
      >>> import numpy as np
      >>> from precond.layers.kinds import dense
      >>> found = Found(dense(), shape=(4, 4))
      >>> [may_be_stacked_elsewhere("", found, {"kernel": np.ones(shape)}) for shape in ((4, 4, 4), (2, 4, 4))]
      [True, False]
    """
    outer = tuple(leaves_of(params)[f"{path}/{found.weights}" if path else found.weights].shape)
    return any(outer[:k] + outer[k + 1 :] == found.shape for k in range(1, len(outer)))


def _reason(path: str, reasons: Mapping[str, str]) -> str:
    """Return the reason of the innermost module around a parameter that has one."""
    while path:
        path = path.rpartition("/")[0]
        if path in reasons:
            return reasons[path]
    return "no layer that is called uses it"

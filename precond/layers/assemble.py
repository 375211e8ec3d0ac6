"""Make a capture of the layers that a front end found."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from precond.arguments import check_whole, shown
from precond.blocks import leaves_of
from precond.layers.capture import Capture
from precond.layers.check_patterns import check_patterns
from precond.layers.coverage import Coverage, Row
from precond.layers.kinds import Kind, under_sharing
from precond.layers.sharing import Sharing, expand
from precond.layers.stacking import Stacking, stacked_layer, stackings
from precond.layers.tap import Tap
from precond.trees import Leaf, Tree

__all__ = ["STACKED_ELSEWHERE", "Bind", "LayerSpec", "assemble", "choices", "sharing_of"]

Bind = Callable[[Mapping[str, Tap]], Callable[..., Any]]
"""A function that makes the `apply` of a capture from the taps by path."""


STACKED_ELSEWHERE = (
    "over which axis its weights are scanned, mapped or stacked cannot be found out from their shapes: write nn.scan("
    ".., variable_axes={'params': 0}), or 0 for its axis with nnx, and move weights by jnp.moveaxis(x, 1, 0)"
)
"""Why a layer whose stack is not understood has no factors, and what to write."""


class LayerSpec(NamedTuple):
    """Say what a front end's rule found: the kind of a layer, and the names of its parameters.

    Attributes:
      kind: the kind of the layer.
      weights: the name of its weights among its parameters.
      bias: the name of its bias, used if the kind has one.
      shape: the shape of the weights where the layer is called. The weights among the parameters have these axes in
        this order, and those of scans and maps before and between them. None takes all axes of scans and maps for the
        first ones.
      choice: which axes to take for those of scans and maps where several would fit the shapes; 0 for the first ones.
    """

    kind: Kind
    weights: str = "kernel"
    bias: str = "bias"
    shape: tuple[int, ...] | None = None
    choice: int = 0


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
    specs: Mapping[str, LayerSpec],
    reasons: Mapping[str, str],
    params: Tree,
    bind: Bind,
    *,
    sharing: Sharing | Sequence[tuple[str, Sharing]],
    batch: int,
) -> Capture:
    """Return a capture of the layers that a front end found.

    Args:
      specs: the specs of the layers, by path.
      reasons: why the modules at other paths are not tapped.
      params: the model's parameters.
      bind: a function from the taps by path to the `apply` of the capture.
      sharing: as in `sharing_of`.
      batch: as in `Tap`.
    """
    check_whole("batch", batch, least=0)
    leaves, rule = leaves_of(params), sharing_of(sharing)
    if not callable(sharing):
        check_patterns("sharing", [pattern for pattern, _ in sharing], sorted(specs))
    layers, taps, rows = {}, {}, []
    for path, layer in sorted(specs.items()):
        try:
            kind, weights, bias, stacking = _located(leaves, f"{path}/" if path else "", layer)
            kernel, how = leaves[weights], rule(path)
            here = functools.partial(stacked_layer, weights=weights, bias=bias, shape=tuple(kernel.shape))
            plain = here(kind, stacking=stacking)
        except ValueError as why:
            reasons = {**reasons, path: str(why)}
            continue
        kind = under_sharing(kind, plain, how)
        layers[path] = here(kind, stacking=stacking)
        taps[path] = Tap(kind, how, batch)
        rows.append(Row.of(path, layers[path], taps[path], kernel))
    owned = {x for layer in layers.values() for x in (layer.kernel, layer.bias)}
    for path, leaf in leaves.items():
        if path not in owned:
            rows.append(Row(path, "", "", 0, _reason(path, reasons), leaf.size))
    return Capture(layers, taps, Coverage(tuple(rows)), bind(taps))


def _located(leaves: Mapping[str, Leaf], place: str, spec: LayerSpec) -> tuple[Kind, str, str | None, Stacking]:
    """Return a layer's kind, the paths of its weights and bias among the parameters, and the axes of its stack."""
    kind, weights, bias = spec.kind, place + spec.weights, place + spec.bias
    if weights not in leaves:
        raise ValueError("the weights of its layer are those of another one, or no parameters")
    has_bias = kind.bias and bias in leaves
    ways = stackings(leaves[weights].shape, spec.shape, leaves[bias].shape if has_bias else None)
    if not ways:
        raise ValueError(STACKED_ELSEWHERE)
    way = ways[min(spec.choice, len(ways) - 1)]
    return (kind if has_bias or not kind.bias else kind.without_bias()), weights, bias if has_bias else None, way


def choices(path: str, spec: LayerSpec, params: Tree) -> int:
    """Return how many ways of stacking fit the shapes of a layer's parameters.

    Args:
      path: the path of the layer.
      spec: what a rule found there.
      params: the model's parameters.

    Examples:
      >>> import numpy as np
      >>> from precond.layers.kinds import dense
      >>> spec = LayerSpec(dense(), shape=(4, 4))
      >>> [choices("", spec, {"kernel": np.ones(shape)}) for shape in ((4, 4, 4), (2, 4, 4))]
      [3, 1]
    """
    leaves, place = leaves_of(params), f"{path}/" if path else ""
    bias = leaves.get(place + spec.bias) if spec.kind.bias else None
    return len(stackings(leaves[place + spec.weights].shape, spec.shape, None if bias is None else bias.shape))


def _reason(path: str, reasons: Mapping[str, str]) -> str:
    """Return the reason of the innermost module around a parameter that has one."""
    while path:
        path = path.rpartition("/")[0]
        if path in reasons:
            return reasons[path]
    return "no layer that is called uses it"

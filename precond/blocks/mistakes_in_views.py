"""Find views that are probably mistakes."""

import math
from collections.abc import Iterator
from typing import Any

from precond.blocks.cuts import BlockSize, Ragged
from precond.blocks.parameter import parameters_of
from precond.blocks.stack_name import stack_name
from precond.blocks.view import Geometry, View, Views, geometry
from precond.blocks.views import LayerViews, PatternViews, batch_axes, names_of
from precond.blocks.views.matrices import MANY, SHORT

__all__ = ["in_words", "mistakes_in_views"]


def in_words(g: Geometry, row: bool = False) -> str:
    """Describe in words how a parameter is read.

    Args:
      g: how it is read.
      row: whether another parameter is the last row of each matrix.

    Examples:
      >>> in_words(geometry(View((1, 2), passive=(0,)), (6, 512, 64), "embedding"))
      '6 matrices (512) x 64'
    """
    count, kinds = math.prod(g.shape) // math.prod(g.tensor), {1: ("vector", "vectors"), 2: ("matrix", "matrices")}
    one, many = kinds.get(len(g.tensor), ("tensor", "tensors"))
    tensor = (g.tensor[0] + row, *g.tensor[1:])
    words = f"{one if count == 1 else f'{count} {many}'} {stack_name(tensor, g.passive).replace('x', ' x ')}"
    return words + (", the bias as its last row" if row else "")


def mistakes_in_views(tree: Any, views: Views, block_size: BlockSize = None) -> list[str]:
    """Find parameters that are read in a way that costs much and tells little, or that mixes layers.

    Args:
      tree: a tree of parameters, in their boxes if they have some.
      views: as in `layout_of`.
      block_size: as in `layout_of`.

    Returns:
      A sentence or more for each mistake, to warn of it.

    Examples:
      >>> import jax.numpy as jnp
      >>> tree = {"kernel": jnp.zeros((2048, 3, 3))}
      >>> print(*mistakes_in_views(tree, lambda path, leaf: View((1, 2))))
      'kernel' of shape (2048, 3, 3) is read as 2048 matrices 3 x 3. More than 1000 blocks with a side of 8 or less ...
    """
    if isinstance(views, LayerViews):  # the model itself says how a layer is read
        return []
    names, parameters = names_of(tree), parameters_of(tree)
    found: list[str] = []
    if isinstance(views, PatternViews) and parameters:
        found += _unmatched_patterns(views, [path for path, _ in parameters])
    for path, leaf in parameters:
        view = views(path, leaf) if leaf.size else None
        if view is not None:
            size = block_size.size if isinstance(block_size, Ragged) else block_size
            found += _short_sides(path, leaf.shape, view, size)
            found += _mixed_layers(path, leaf.shape, view, names.get(path, ()))
    return found


def _unmatched_patterns(views: PatternViews, paths: list[str]) -> Iterator[str]:
    """Find patterns that are found in no parameter. Another part of a partition may have it."""
    for pattern in views.unmatched(paths):
        few = " and ".join(repr(path) for path in dict.fromkeys((paths[0], paths[-1])))
        yield (
            f"views: the pattern {pattern!r} does not match the path of any parameter, such as {few}. Mend it, or "
            f"leave it out."
        )


def _short_sides(path: str, shape: tuple[int, ...], view: View, block_size: int | None) -> Iterator[str]:
    """Find thousands of narrow blocks: a window or an embedding that is read wrongly, or a very long matrix.

    This is not an error, because a batch of tiny tensors can be meant: the position of each of many particles, with a
    factor of 3 x 3.
    """
    g = geometry(view, shape, f"'{path}'")
    cuts = [1 if block_size is None else -(-d // block_size) for d in g.tensor]
    count = math.prod(g.shape) // math.prod(g.tensor) * math.prod(cuts)
    if count > MANY and min(d for i, d in enumerate(g.tensor) if i not in g.passive) <= SHORT:
        cut = "" if math.prod(cuts) == 1 else f", cut into {count} blocks"
        yield (
            f"'{path}' of shape {shape} is read as {in_words(g)}{cut}. More than {MANY} blocks with a side of {SHORT} "
            f"or less cost much and tell little. If the short axes are a window, merge them with the inputs, as "
            f"View((0, (1, 2, 3))) does for [out, in, h, w]. If they are heads, merge them with the width, as "
            f"View((0, (1, 2))) does for [in, heads, width]. Or give None."
        )


def _mixed_layers(path: str, shape: tuple[int, ...], view: View, names: tuple[str, ...]) -> Iterator[str]:
    """Find out where the names of axes say that layers are stacked, and the view takes them for a side of a matrix.

    The names alone do not change the view: most training loops have them only at `init`, and `update` has to read a
    parameter as `init` did.
    """
    g = geometry(view, shape, f"'{path}'")
    batch = g.order[: len(g.order) - sum(len(entry) if isinstance(entry, (tuple, list)) else 1 for entry in view.axes)]
    starts = {math.prod(g.shape[:axis]): g.shape[axis] for axis in batch}
    mixed = [axis for axis in batch_axes(names) if starts.get(math.prod(shape[:axis])) != shape[axis] > 1]
    if 0 < len(names) < len(shape) - len(batch):
        yield (
            f"'{path}' of shape {shape} has names for {len(names)} axes, {names}, but is read as {in_words(g)}: it is "
            f"a stack of layers whose axis has no name. Give it one where layers are stacked (linen's metadata_params, "
            f"nnx's transform_metadata, with PARTITION_NAME), or say views=precond.views.stacked(pattern, axis)."
        )
    if len(names) == len(shape) and mixed:
        yield (
            f"'{path}' of shape {shape} has axes named {names}, but is read as {in_words(g)}, with "
            f"'{names[mixed[0]]}' in one of its sides. Pass views=precond.views.named(params), which follows the "
            f"names of parameters in their boxes, or views=precond.views.stacked(pattern, axis={mixed[0]})."
        )

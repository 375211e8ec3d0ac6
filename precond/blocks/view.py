"""Read one parameter as a batch of tensors: say which of its axes are preconditioned, merged, or batch axes."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from precond.arguments import shown

__all__ = ["View", "Views", "check_view", "geometry"]


class View(NamedTuple):
    """Say which axes of a parameter are preconditioned, in the spirit of Optax's `MuonDimensionNumbers`.

    Axes that are not named are batch axes: scanned layers, experts, heads. Every entry of the batch is a tensor
    of its own, preconditioned alone.

    Attributes:
      axes: the axes of the tensor. Each entry is an axis of the parameter, or a tuple of axes merged into one in this
        order. Negative numbers count from the end. At least one entry.
      passive: positions in `axes` that belong to the tensor but get no factor (one-sided preconditioning); they
        are never cut into blocks.
      shape: the shape in which the parameter is first read, which splits a fused axis or merges neighbours; one entry
        may be -1. None keeps its own.
      row: the path of another parameter, such as a bias, that is the last row of each matrix: the tensor must have two
        axes. That parameter must have no view of its own, and may be absent.
      row_axes: the axes of that other parameter that are the columns of a matrix; the others are the batch, in the
        order of the batch axes here. None takes the last ones.

    Examples:
      A matrix; a convolution `[h, w, in, out]` as the matrix `[h w in, out]`; a stack of layers `[L, m, n]`; a fused
      QKV kernel `[d, 3 d]` as three `[d, d]`; an embedding `[vocabulary, d]` on its small side only; a dense layer
      with its bias as one row more:

      >>> View((0, 1))
      View(axes=(0, 1), passive=(), shape=None)
      >>> convolution, layers = View(((0, 1, 2), 3)), View((1, 2))
      >>> qkv, embedding = View((0, 2), shape=(512, 3, 512)), View((0, 1), passive=(0,))
      >>> dense = View((0, 1), row="dense/bias")
    """

    axes: tuple[int | tuple[int, ...], ...]
    passive: tuple[int, ...] = ()
    shape: tuple[int, ...] | None = None
    row: str | None = None
    row_axes: tuple[int, ...] | None = None

    def __repr__(self) -> str:
        """Leave out a row that is None."""
        row = "" if self.row is None else f", row={self.row!r}"
        row += "" if self.row_axes is None else f", row_axes={self.row_axes}"
        return f"View(axes={self.axes}, passive={self.passive}, shape={self.shape}{row})"


Views = Callable[[str, Any], View | None]
"""A function from a parameter's path (`"layers/0/kernel"`) and the parameter (or anything with its shape and dtype) to
its view, or None for a parameter that is not preconditioned. It must always answer the same: answers are remembered."""


class Geometry(NamedTuple):
    """Make a view explicit for one parameter: `reshape(shape).transpose(order).reshape(-1, *tensor)`."""

    shape: tuple[int, ...]
    order: tuple[int, ...]
    tensor: tuple[int, ...]
    passive: tuple[int, ...]

    def spans(self) -> list[tuple[int, int]]:
        """Return for each axis of the tensor the range in `order` of the axes that are merged into it."""
        read, end = [self.shape[a] for a in self.order], len(self.order)
        spans = []
        for size in reversed(self.tensor):
            start = end
            while math.prod(read[start:end]) < size:
                start -= 1
            spans.insert(0, (start, end))
            end = start
        return spans

    def of_row(self) -> "Geometry":
        """Return how the last row of each matrix is read by default: with the same axes without those of the rows."""
        (first, last), _ = self.spans()
        read = tuple(self.shape[a] for a in (*self.order[:first], *self.order[last:]))
        return Geometry(read, tuple(range(len(read))), self.tensor[1:], ())


def _is_whole(x: Any) -> bool:
    return hasattr(x, "__index__") and not isinstance(x, bool)


def check_view(view: Any, where: str) -> None:
    """Raise unless this is a view with fields of the right types.

    Args:
      view: what `views` gave.
      where: how to name the parameter in an error.

    Raises:
      TypeError: for anything else. The message names the field.

    Examples:
      >>> check_view((0, 1), "'kernel'")
      Traceback (most recent call last):
      TypeError: `views` gave (0, 1) for 'kernel': it must give a precond.View, or None.
    """
    if not isinstance(view, View):
        raise TypeError(f"`views` gave {shown(view)} for {where}: it must give a precond.View, or None.")
    entries = view.axes if isinstance(view.axes, (tuple, list)) else [None]
    flat = [axis for entry in entries for axis in (entry if isinstance(entry, (tuple, list)) else [entry])]
    if not all(map(_is_whole, flat)):
        raise TypeError(
            f"View.axes={view.axes!r} of {where}: must be a tuple of axes, or of groups of axes, such as (0, 1) or "
            f"((0, 1), 2)."
        )
    for name in ("passive", "shape", "row_axes"):
        given = getattr(view, name)
        absent = given is None and name != "passive"
        if not absent and not (isinstance(given, (tuple, list)) and all(map(_is_whole, given))):
            raise TypeError(f"View.{name}={given!r} of {where}: must be a tuple of integers.")
    if not isinstance(view.row, str | None):
        raise TypeError(f"View.row={view.row!r} of {where}: must be the path of a parameter, such as 'dense/bias'.")


def _reading(view: View, shape: tuple[int, ...], where: str) -> tuple[int, ...]:
    if view.shape is None:
        return shape
    read, size = tuple(map(int, view.shape)), math.prod(shape)
    if read.count(-1) == 1:
        known = -math.prod(read)
        read = tuple(size // known if d == -1 and known else d for d in read)
    if any(d < 0 for d in read) or math.prod(read) != size:
        raise ValueError(
            f"View.shape={view.shape} does not fit {where} of shape {shape}: the products of the two must be "
            f"equal, with at most one -1. Mend the view that `views` gives for this path."
        )
    return read


def geometry(view: View, shape: tuple[int, ...], where: str) -> Geometry:
    """Check a view against a parameter and make it explicit.

    Args:
      view: what `views` gave.
      shape: the shape of the parameter.
      where: how to name the parameter in an error.

    Raises:
      ValueError: for an axis out of range, named twice, or a shape that does not fit.
      TypeError: for anything but a view, or for axes that are not integers.

    Examples:
      >>> geometry(View(((0, 1), 2)), (3, 5, 4), "kernel")
      Geometry(shape=(3, 5, 4), order=(0, 1, 2), tensor=(15, 4), passive=())
    """
    check_view(view, where)
    shape = _reading(view, shape, where)
    rank = len(shape)
    groups = [tuple(entry) if isinstance(entry, (tuple, list)) else (entry,) for entry in view.axes]
    named = [axis for group in groups for axis in group]
    if not named or any(not -rank <= axis < rank for axis in named):
        raise ValueError(
            f"View.axes={view.axes} does not fit {where}, read as {shape}: name at least one axis, each between "
            f"{-rank} and {rank - 1}. Mend the view that `views` gives for this path, or give None."
        )
    groups = [tuple(int(axis) % rank for axis in group) for group in groups]
    named = [axis for group in groups for axis in group]
    if len(set(named)) < len(named):
        raise ValueError(f"View.axes={view.axes} names an axis of {where} twice: an axis belongs to one entry.")
    passive = tuple(sorted(int(i) % len(groups) for i in view.passive if -len(groups) <= i < len(groups)))
    if len(set(passive)) != len(view.passive) or len(passive) == len(groups):
        raise ValueError(
            f"View.passive={view.passive} of {where} must be distinct positions in axes={view.axes} and leave at "
            f"least one active. Give None in place of the view to leave the parameter unpreconditioned."
        )
    batch = tuple(axis for axis in range(rank) if axis not in named)
    tensor = tuple(math.prod(shape[axis] for axis in group) for group in groups)
    return Geometry(shape, (*batch, *named), tensor, passive)

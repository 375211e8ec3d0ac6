"""Make views from letters, by splitting an axis, and from the view of one layer of a stack."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from precond.blocks.parameter import Parameter, as_parameter
from precond.blocks.view import View, Views, check_view, geometry

__all__ = [
    "MANY",
    "SHORT",
    "first_two",
    "from_letters",
    "has_real_matrix",
    "last_two",
    "split",
    "with_batch_axes",
    "with_layer_axes",
]

MANY, SHORT = 1000, 8
"""More than `MANY` matrices with a side of `SHORT` or less are probably a mistake. A window has sides of up to 7 as
a rule, and an attention layer often has 8 heads. A batch of layers, heads or experts has fewer than 1000 entries."""


def has_real_matrix(leaf: Any) -> bool:
    """Return whether a parameter is of real numbers and has at least two axes.

    Args:
      leaf: anything with shape and dtype.

    Examples:
      >>> (
      ...     has_real_matrix(jnp.zeros((2, 3))),
      ...     has_real_matrix(jnp.zeros((2, 3), "complex64")),
      ...     has_real_matrix(jnp.zeros(3)),
      ... )
      (True, False, False)
    """
    whole = as_parameter(leaf)
    return whole.ndim >= 2 and jnp.issubdtype(whole.dtype, jnp.floating)


def from_letters(axes: str, shape: Sequence[int]) -> View | None:
    """Make a view of matrices from one letter for each axis, or None if the matrices are vectors.

    Args:
      axes: the letter of each axis: `r` for rows, `c` for columns, `b` for the batch.
      shape: the shape of the parameter.

    Examples:
      >>> from_letters("brcc", (6, 64, 4, 16))  # scanned layers, inputs, heads, width
      View(axes=((1,), (2, 3)), passive=(), shape=None)
      >>> from_letters("rc", (64, 1)) is None
      True
    """
    rows, columns = (tuple(k for k, letter in enumerate(axes) if letter == side) for side in "rc")
    if min(math.prod(shape[k] for k in side) for side in (rows, columns)) <= 1:
        return None
    return View((rows, columns))


def last_two(shape: Sequence[int]) -> View | None:
    """Make a view of matrices whose rows and columns are the last two axes.

    Two kinds of arrays are not batches of matrices. A last axis of two numbers holds the parts of a complex number. And
    if there are more than 1000 matrices with a side of 8 or less, the short axis is probably the window of a filter.

    Args:
      shape: the shape of the parameter.

    Examples:
      >>> last_two((8, 64, 128))
      View(axes=((1,), (2,)), passive=(), shape=None)
      >>> last_two((128, 64, 3, 3)) is None
      True
    """
    return _batch("b" * (len(shape) - 2) + "rc", shape)


def first_two(shape: Sequence[int]) -> View | None:
    """Make a view of matrices whose rows and columns are the first two axes, with the exceptions of `last_two`.

    Args:
      shape: the shape of the parameter.

    Examples:
      >>> first_two((64, 32, 16))
      View(axes=((0,), (1,)), passive=(), shape=None)
    """
    return _batch("rc" + "b" * (len(shape) - 2), shape)


def _batch(axes: str, shape: Sequence[int]) -> View | None:
    sides = [shape[axes.index(side)] for side in "rc"]
    tiny = math.prod(shape) > MANY * math.prod(sides) and min(sides) <= SHORT
    return None if tiny or (len(shape) > 2 and shape[-1] == 2) else from_letters(axes, shape)


def split(shape: Sequence[int], axis: int, parts: int) -> View | None:
    """Make a view of a matrix with several outputs side by side as that many matrices.

    Args:
      shape: the shape of the matrix. Axes between the first and the last belong to the side that is not split.
      axis: the axis along which they are, the first or the last.
      parts: the number of outputs, which divides the axis.

    Examples:
      >>> split((64, 192), 1, 3)
      View(axes=((0,), (2,)), passive=(), shape=(64, 3, 64))
      >>> split((3, 3, 32, 128), 3, 4)  # the gates of a convolutional LSTM
      View(axes=((0, 1, 2), (4,)), passive=(), shape=(3, 3, 32, 4, 32))
    """
    more, read = len(shape) - 1, (*shape[:axis], parts, shape[axis] // parts, *shape[axis + 1 :])
    view = from_letters("br" + "c" * more if axis == 0 else "r" * more + "bc", read)
    return None if view is None else view._replace(shape=read)


def with_layer_axes(view: View, shape: Sequence[int], axes: Sequence[int], where: str) -> View:
    """Make the view of a stack of layers from that of one layer.

    Args:
      view: the view of one layer.
      shape: the shape of the stack.
      axes: the axes of the layers, sorted and not negative.
      where: how to name the parameter in an error.

    Raises:
      ValueError: if the view reads axes on both sides of a layer's axis as one.

    Examples:
      >>> with_layer_axes(View((0, 2), shape=(64, 3, 64)), (64, 6, 192), (1,), "qkv")
      View(axes=(0, 3), passive=(), shape=(64, 6, 3, 64))
    """
    check_view(view, where)
    one = tuple(d for axis, d in enumerate(shape) if axis not in axes)
    read = None if view.shape is None else list(geometry(view, one, where).shape)
    kept = list(range(len(one) if read is None else len(read)))
    for axis in axes:
        place = axis
        if read is not None:
            before = math.prod(shape[:axis])
            place = next((k for k in range(len(read) + 1) if math.prod(read[:k]) == before), -1)
            if place < 0:
                raise ValueError(
                    f"View.shape={view.shape} of one layer of {where} cannot be read in the stack {tuple(shape)}: "
                    f"axis {axis} lies within one of its axes. Give the view of the whole parameter."
                )
            read.insert(place, shape[axis])
        kept = [k + (k >= place) for k in kept]

    def moved(entry: Any) -> Any:
        return tuple(kept[k] for k in entry) if isinstance(entry, (tuple, list)) else kept[entry]

    return View(tuple(map(moved, view.axes)), tuple(view.passive), None if read is None else tuple(read))


def with_batch_axes(axes: Sequence[int], views: Views) -> Views:
    """Make views that take some axes of a parameter for a batch, and read the rest by other views.

    Args:
      axes: the batch axes; negative numbers count from the end.
      views: the views of one entry of the batch.

    Examples:
      >>> with_batch_axes((1,), lambda path, leaf: View((0, 1)))(
      ...     "mlp/kernel", jnp.zeros((64, 6, 128))
      ... )
      View(axes=(0, 2), passive=(), shape=None)
    """

    def read(path: str, leaf: Any) -> View | None:
        whole: Parameter = as_parameter(leaf)
        batch = sorted(axis % whole.ndim for axis in axes)
        view = views(path, whole.without(tuple(batch)))
        return None if view is None else with_layer_axes(view, whole.shape, batch, f"'{path}'")

    return read if axes else views

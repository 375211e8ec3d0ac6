"""Move arrays of stacked layers whose parameters are stacked along other axes than the first."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

__all__ = ["gather_layer_axes", "layer_axes_first", "spread_layer_axes", "spread_shape"]


def layer_axes_first(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """Move the axes of a stack to the front.

    Args:
      x: a parameter of stacked layers.
      axes: the axes along which they are stacked.

    Examples:
      >>> layer_axes_first(jnp.zeros((4, 2, 5)), (1,)).shape
      (2, 4, 5)
    """
    return jnp.moveaxis(x, tuple(axes), tuple(range(len(axes))))


def spread_shape(sizes: Sequence[int], inner: Sequence[int], axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Return the shape of an array of stacked layers that a loop slices as it slices their weights.

    A scan over axis 1 of parameters slices every array along axis 1, those of a probe too. So such an array gets the
    rank of the weights, and the sizes of the stack on the same axes.

    Args:
      sizes: the sizes of the layer axes.
      inner: the shape of one layer's array.
      axes: the axes of the weights along which the layers are stacked.
      rank: the number of axes of the weights.

    Examples:
      >>> spread_shape((2,), (3, 3), (1,), 3), spread_shape((2,), (), (1,), 3)
      ((9, 2, 1), (1, 2, 1))
    """
    rest = iter([math.prod(inner), *[1] * (rank - len(axes) - 1)])
    by_axis = dict(zip(axes, sizes, strict=True))
    return tuple(by_axis[axis] if axis in by_axis else next(rest) for axis in range(rank))


def spread_layer_axes(x: jax.Array, axes: Sequence[int], rank: int) -> jax.Array:
    """Return an array `[layers.., inner..]` in the shape of `spread_shape`.

    Args:
      x: an array with the axes of the stack in front.
      axes: as in `spread_shape`.
      rank: as in `spread_shape`.

    Examples:
      >>> spread_layer_axes(jnp.zeros((2, 3, 3)), (1,), 3).shape
      (9, 2, 1)
    """
    count = len(axes)
    flat = x.reshape(*x.shape[:count], math.prod(x.shape[count:]), *[1] * (rank - count - 1))
    return jnp.moveaxis(flat, tuple(range(count)), tuple(axes))


def gather_layer_axes(x: jax.Array, axes: Sequence[int], inner: Sequence[int]) -> jax.Array:
    """Return an array `[layers.., inner..]` from one in the shape of `spread_shape`.

    Args:
      x: an array in the shape of `spread_shape`.
      axes: as in `spread_shape`.
      inner: the shape of one layer's array.

    Examples:
      >>> gather_layer_axes(jnp.zeros((9, 2, 1)), (1,), (3, 3)).shape
      (2, 3, 3)
    """
    moved = layer_axes_first(x, axes)
    return moved.reshape(*moved.shape[: len(axes)], *inner)

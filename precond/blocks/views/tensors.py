"""Read parameters as tensors with one factor for each axis, and matrices with one factor alone."""

import math
from typing import Any

import jax.numpy as jnp

from precond.arguments import check_whole, described
from precond.blocks.parameter import as_parameter
from precond.blocks.view import View, Views

__all__ = ["small_side", "tensors"]


def small_side(path: str, leaf: Any) -> View | None:
    """Read a matrix with a factor on its smaller side only, as Anil et al. (2020) treat embeddings.

    Args:
      path: the path of the parameter.
      leaf: the parameter, or anything with its shape and dtype.

    Examples:
      >>> small_side("embedding", jnp.zeros((5000, 64)))
      View(axes=(0, 1), passive=(0,), shape=None)
    """
    leaf = as_parameter(leaf)
    if len(leaf.shape) != 2 or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return None
    return View((0, 1), passive=(0,) if leaf.shape[0] >= leaf.shape[1] else (1,))


def _merged(shape: tuple[int, ...], limit: float) -> tuple[int, ...]:
    """Merge neighbouring axes from the left while their product is within the limit; drop axes of length 1."""
    merged, product = [], 1
    for d in shape:
        if product * d <= limit:
            product *= d
        else:
            merged += [product] if product > 1 else []
            product = d
    return tuple(merged + ([product] if product > 1 else [])) or (1,)


def _merged_from_right(shape: tuple[int, ...], limit: float, target: int) -> tuple[int, ...]:
    """Merge axes from the right, while more than `target` axes are left."""
    merged = [shape[-1]]
    for done, d in enumerate(shape[-2::-1], start=1):
        if len(merged) + len(shape) - done > target and merged[-1] * d <= limit:
            merged[-1] *= d
        else:
            merged.append(d)
    return tuple(merged[::-1])


@described()
def tensors(
    *,
    min_rank: int = 0,
    squeeze: bool = False,
    merge: int | None = 0,
    target: int | None = None,
    max_size: int = 0,
) -> Views:
    """Read every parameter as a tensor with one factor for each axis, as the reference Shampoos and SOAP read it.

    Args:
      min_rank: the least number of axes: parameters of fewer axes get no view.
      squeeze: whether to drop axes of length 1 first (Meta); a scalar is then a vector of 1.
      merge: the limit up to which the product of neighbouring axes is merged, from the left (Google's
        `best_effort_shape_interpretation`); 0 merges none, and None sets no limit.
      target: the number of axes down to which axes are merged from the right instead (Meta).
      max_size: the longest axis with a factor: longer ones are passive (SOAP's `max_precond_dim`); 0 sets no limit.

    Examples:
      >>> tensors()("w", jnp.zeros((4, 1, 5)))
      View(axes=(0, 1, 2), passive=(), shape=(4, 1, 5))
      >>> tensors(squeeze=True)("w", jnp.zeros((4, 1, 5)))
      View(axes=(0, 1), passive=(), shape=(4, 5))
      >>> tensors(merge=16)("w", jnp.zeros((3, 3, 32, 32)))
      View(axes=(0, 1, 2), passive=(), shape=(9, 32, 32))
    """
    for name, value in {"min_rank": min_rank, "merge": merge, "target": target, "max_size": max_size}.items():
        if value is not None:
            check_whole(name, value, least=0)

    def views(path: str, leaf: Any) -> View | None:
        del path
        leaf = as_parameter(leaf)
        shape = leaf.shape
        if squeeze:
            shape = tuple(d for d in shape if d != 1) or (1,)
        limit = math.inf if merge is None else merge
        if target is not None and shape:
            shape = _merged_from_right(shape, limit, target)
        elif limit and shape:
            shape = _merged(shape, limit)
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        passive = tuple(i for i, d in enumerate(shape) if max_size and d > max_size)
        if not floating or not shape or len(leaf.shape) < min_rank or len(passive) == len(shape):
            return None
        return View(tuple(range(len(shape))), passive, shape)

    return views

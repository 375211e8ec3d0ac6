"""Treat an axis of matching parameters as an axis of layers."""

import re
from collections.abc import Sequence
from typing import Any

from precond.arguments import described
from precond.blocks.parameter import as_parameter
from precond.blocks.view import View, Views
from precond.blocks.views.default_views import default_views
from precond.blocks.views.matrices import with_batch_axes
from precond.blocks.views.pattern_views import PatternViews

__all__ = ["stacked"]


@described()
def stacked(pattern: str, axis: int | Sequence[int] = 0, otherwise: Views = default_views) -> Views:
    """Return views for which an axis of some parameters is a batch axis, and all else is read by other views.

    Args:
      pattern: a regular expression, searched in the path.
      axis: the axis of the layers, or several axes; negative numbers count from the end.
      otherwise: the views of one layer of the parameters in which the pattern is found, and of the other parameters.

    Raises:
      ValueError, TypeError: for a pattern that is not a regular expression or an axis that is not an integer; in `init`
        for an axis that a parameter does not have.

    Examples:
      >>> import jax.numpy as jnp
      >>> views = stacked("^layers/", axis=1)
      >>> views("layers/mlp/kernel", jnp.zeros((64, 6, 128)))
      View(axes=((0,), (2,)), passive=(), shape=None)
      >>> both = stacked("^decoder/", axis=0, otherwise=stacked("^encoder/", axis=1))
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(f"stacked: {pattern!r} is not a regular expression: {error}.") from error
    axes = tuple(axis) if isinstance(axis, Sequence) else (axis,)
    if not all(isinstance(a, int) and not isinstance(a, bool) for a in axes):
        raise TypeError(f"stacked: axis={axis!r} must be an integer, or a sequence of integers.")

    def views(path: str, leaf: Any) -> View | None:
        if not compiled.search(path):
            return otherwise(path, leaf)
        rank = as_parameter(leaf).ndim
        if any(not -rank <= a < rank for a in axes) or len({a % rank for a in axes}) < len(axes):
            raise ValueError(
                f"stacked({pattern!r}, axis={axis}) does not fit '{path}' of shape {tuple(leaf.shape)}: each axis must "
                f"be one of its {rank}. Give a pattern that is found in stacked parameters alone."
            )
        return with_batch_axes(axes, otherwise)(path, leaf)

    return PatternViews((pattern,), views, otherwise)

"""Read tall matrices as wide ones, so that both share a stack."""

from typing import Any

from precond.blocks.view import View, Views, check_view, geometry
from precond.blocks.views import PatternViews

__all__ = ["wide_views"]


def wide_views(views: Views) -> Views:
    """Return views that read every matrix with more rows than columns as its transpose.

    They are for methods to which a matrix and its transpose are the same. A matrix with a bias in its last row stays as
    it is, and so does a tensor with another number of axes.

    Args:
      views: the views of the parameters.

    Examples:
      >>> import jax.numpy as jnp
      >>> views = wide_views(lambda path, leaf: View((0, 1)))
      >>> views("up", jnp.zeros((4, 6))).axes, views("down", jnp.zeros((6, 4))).axes
      ((0, 1), (1, 0))
    """

    def read(path: str, leaf: Any) -> View | None:
        view = views(path, leaf)
        if view is not None:
            check_view(view, f"'{path}'")
        if view is None or len(view.axes) != 2 or view.row is not None:
            return view
        rows, columns = geometry(view, tuple(leaf.shape), f"'{path}'").tensor
        if rows <= columns:
            return view
        return view._replace(axes=view.axes[::-1], passive=tuple(1 - position for position in view.passive))

    return PatternViews((), read, views)

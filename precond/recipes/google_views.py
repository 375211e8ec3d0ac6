"""Choose the parameters that Google's implementations precondition."""

import math

from precond.arguments import check_number, check_whole
from precond.blocks import View, Views, tensors
from precond.trees import Leaf

__all__ = ["google_views"]


def google_views(min_rank: int, max_size: float, merge: int) -> Views:
    """Leave out parameters of few axes or of a long one, and merge the axes of the others.

    Args:
      min_rank: parameters of fewer axes get no view.
      max_size: parameters with a longer axis get no view.
      merge: as in `precond.views.tensors`.

    Examples:
      >>> import jax
      >>> view = google_views(2, 100, 0)
      >>> [
      ...     view("w", jax.ShapeDtypeStruct(s, "float32")) is None
      ...     for s in ((3, 2), (3,), (101, 2))
      ... ]
      [False, True, True]
    """
    check_whole("min_rank", min_rank, least=0)
    check_number("max_size", max_size, 0, math.inf)
    merged = tensors(min_rank=min_rank, merge=merge)

    def view(path: str, leaf: Leaf) -> View | None:
        if max(leaf.shape, default=0) > max_size:
            return None
        return merged(path, leaf)

    return view

"""Find the counts that have a number for each parameter."""

from collections.abc import Collection
from typing import Any

import numpy as np

__all__ = ["counts_in"]


def counts_in(leaves: dict[str, Any], stacked: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the paths of the parameters to which the numbers of a count belong, by the name of the count.

    Such a count is an array `[n]` beside the moments of n parameters, in the order of their sorted paths, as in the
    state of the Adam of this library. A count that all parameters share is left out.

    Args:
      leaves: the leaves of a state, by name.
      stacked: the names of those in stacks of blocks, which are left out.

    Examples:
      >>> counts_in({"0/count": np.zeros(2), "0/nu/b": 1.0, "0/nu/a": 1.0, "1/count": 3}, ())
      {'0/count': ('a', 'b')}
    """
    found = {}
    for name, x in leaves.items():
        if f"/{name}".endswith("/count") and name not in stacked:
            nu = f"{name.removesuffix('count')}nu"
            paths = sorted(other[len(nu) + 1 :] for other in leaves if f"{other}/".startswith(f"{nu}/"))
            if np.shape(x) == (len(paths),):
                found[name] = tuple(paths)
    return found

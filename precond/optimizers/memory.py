"""Choose what an alias keeps in bfloat16."""

from typing import Any, NamedTuple

import optax

from precond.arguments import check_flag, check_part
from precond.engine import entries_in_16_bits
from precond.roots import Root, store_as

__all__ = ["Memory", "memory_of"]


class Memory(NamedTuple):
    """Say what an optimizer keeps in 16 bits, for `memory=` of the aliases.

    Factors stay in float32, as triangles. Roots are triangles, too, in bfloat16. For square blocks a state is this many
    times as large as parameters of float32:

    | | as it is | `Memory()` |
    |---|---|---|
    | `shampoo` | 5 | 2.5 |
    | `shampoo`, `magnitude=precond.transforms.scale_by_mean_square()` | 4 | 2 |
    | `kl_shampoo` | 4 | 2 |
    | `soap`, `kl_soap` | 5 | 3 |
    | `muon` | 1 | 0.5 |

    Attributes:
      entries: whether momentum and second moments are kept so, which are numbers for each entry of a parameter. They
        are rounded up or down by chance, so that no small change is lost. They are in bfloat16, but the momentum of
        `soap` and `kl_soap` is in integers with a scale for each row. Parameters without a view are included, but not
        those of an `otherwise=` of your own. Numbers of float64 stay as they are.
      roots: whether roots and bases are kept so, by `precond.roots.store_as`; roots are triangles then.

    Examples:
      >>> import jax, jax.numpy as jnp, precond
      >>> params = {"kernel": jnp.ones((64, 64))}
      >>> sizes = lambda tx: (
      ...     sum(x.nbytes for x in jax.tree.leaves(tx.init(params)))
      ...     / params["kernel"].nbytes
      ... )
      >>> (
      ...     round(sizes(precond.soap(1e-3)), 1),
      ...     round(sizes(precond.soap(1e-3, memory=Memory())), 1),
      ... )
      (5.0, 3.0)
    """

    entries: bool = True
    roots: bool = True

    def of_entries(self, tx: optax.GradientTransformation, *fixed_point: str) -> optax.GradientTransformation:
        """Return a transformation of stacks or of parameters, with narrow momentum and second moments if asked for.

        Args:
          tx: a transformation.
          *fixed_point: the names of the fields that are stored in fixed point, and not in bfloat16.
        """
        return entries_in_16_bits(tx, *fixed_point) if self.entries else tx

    def of_root(self, root: Root) -> Root:
        """Return a root that is stored in bfloat16 if asked for."""
        return store_as(root) if self.roots else root


def memory_of(given: Any) -> Memory:
    """Return what was given for `memory=`; None keeps everything as it is.

    Raises:
      TypeError: for anything else, and for fields that are not booleans.

    Examples:
      >>> memory_of(None)
      Memory(entries=False, roots=False)
    """
    if given is None:
        return Memory(entries=False, roots=False)
    check_part("memory", given, Memory, "precond.Memory()")
    check_flag("memory.entries", given.entries)
    check_flag("memory.roots", given.roots)
    return given

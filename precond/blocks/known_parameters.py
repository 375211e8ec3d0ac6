"""Hold a hash of each parameter's path in a state, so that the state of other parameters is found."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from precond.blocks.block_ids import hashed
from precond.blocks.check_leaves import check_leaves
from precond.blocks.path_name import leaves_of

__all__ = ["KnownParameters", "known_parameters"]


class KnownParameters(NamedTuple):
    """Hold a hash of the path of each parameter that a state was made for.

    Attributes:
      path_hashes: the hash of the path of each parameter, in their order.
      foreign: the number of updates so far that were given other parameters than these.
    """

    path_hashes: jax.Array
    foreign: jax.Array

    def seeing(self, tree: Any) -> "tuple[jax.Array, KnownParameters]":
        """Return whether a tree has other parameters, and this object with `foreign` counted up if it has.

        Args:
          tree: a tree of gradients, with as many leaves.

        Examples:
          >>> mark = known_parameters({"a": 1.0, "b": 2.0})
          >>> [
          ...     mark.seeing(tree)[0].item()
          ...     for tree in ({"a": 0.0, "b": 0.0}, {"a": 0.0, "c": 0.0})
          ... ]
          [False, True]
        """
        foreign = jnp.any(self.path_hashes != known_parameters(tree).path_hashes)
        return foreign, self._replace(foreign=self.foreign + foreign)


def known_parameters(params: Any) -> KnownParameters:
    """Hash the paths of a tree of parameters.

    Args:
      params: a tree of parameters.

    Raises:
      TypeError: for a parameter that can have no gradient.

    Examples:
      >>> known_parameters({"a": 1.0, "b": 2.0}).path_hashes.shape
      (2,)
    """
    check_leaves(params)
    numbers = jnp.asarray([hashed(path) for path in leaves_of(params)], jnp.int32)
    return KnownParameters(numbers, jnp.zeros([], jnp.int32))

"""What `stacked` keeps."""

from typing import Any, NamedTuple

import jax
import optax

__all__ = ["StackedState"]


class StackedState(NamedTuple):
    """What `stacked` keeps.

    Attributes:
      stacks: the state of the inner transformation; an empty array where no parameter has a view.
      blocks_skipped: blocks so far whose gradient was not finite.
      steps_skipped: updates so far in which no block's gradient was finite.
      owners: whose each block is, by stack (`precond.blocks.owners_of`); an empty array where no parameter has a view.
      layout: the number that stands for the order of all blocks (`precond.blocks.fingerprint`).
      foreign: updates so far that were given other parameters than those of the layout.
    """

    stacks: optax.OptState
    blocks_skipped: jax.Array
    steps_skipped: jax.Array
    owners: Any
    layout: jax.Array
    foreign: jax.Array

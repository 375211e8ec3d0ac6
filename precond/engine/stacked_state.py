"""What `stacked` keeps, and what its numbers mean."""

from typing import Any, NamedTuple

import jax
import optax

from precond.blocks import Layout, hearing

__all__ = ["StackedState", "meaning_of"]


class StackedState(NamedTuple):
    """What `stacked` keeps.

    Attributes:
      stacks: the state of the inner transformation; an empty array where no parameter has a view.
      blocks_skipped: blocks so far whose gradient was not finite.
      steps_skipped: updates so far in which no block's gradient was finite.
      owners: whose each block is, by stack (`precond.blocks.owners_of`); an empty array where no parameter has a view.
      layout: the number that stands for the order of all blocks (`precond.blocks.fingerprint`).
      meaning: the number that stands for what the numbers of `stacks` mean (`precond.blocks.tell_meaning`).
      foreign: updates so far that were given other parameters than those of the layout, or a state of another meaning.
    """

    stacks: optax.OptState
    blocks_skipped: jax.Array
    steps_skipped: jax.Array
    owners: Any
    layout: jax.Array
    meaning: jax.Array
    foreign: jax.Array


def meaning_of(inner: optax.GradientTransformation, layout: Layout) -> tuple[Any, str]:
    """Return the shapes of what a transformation keeps of the stacks of a layout, and what the numbers mean.

    Args:
      inner: of stacks.
      layout: of a tree.

    Examples:
      >>> from precond.blocks import default_views, layout_of
      >>> meaning_of(optax.identity(), layout_of({}, default_views, None))
      (EmptyState(), '')
    """
    with hearing() as heard:
        shapes = jax.eval_shape(lambda stacks: inner.init(stacks), layout.stacks)
    return shapes, ", ".join(sorted(heard))

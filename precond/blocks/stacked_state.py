"""Hold the state of `stacked`, and find what its numbers mean."""

from typing import Any, NamedTuple

import jax
import optax

from precond.blocks.layout import Layout
from precond.blocks.meaning import collect_meanings

__all__ = ["StackedState", "meaning_of"]


class StackedState(NamedTuple):
    """Hold the state of `stacked`.

    Attributes:
      stacks: the state of the inner transformation; an empty array where no parameter has a view.
      blocks_skipped: the number of blocks so far whose gradient was not finite.
      steps_skipped: the number of updates so far in which no block's gradient was finite.
      block_ids: the parameter of each block by stack, as numbers (`precond.blocks.block_ids_of`); an empty array if no
        parameter has a view.
      fingerprint: a hash of the order of all blocks (`precond.blocks.fingerprint`).
      meaning: a hash of what the numbers of `stacks` mean (`precond.blocks.report_meaning`).
      foreign: the number of updates so far that were given parameters of another layout, or a state of another meaning.
    """

    stacks: optax.OptState
    blocks_skipped: jax.Array
    steps_skipped: jax.Array
    block_ids: Any
    fingerprint: jax.Array
    meaning: jax.Array
    foreign: jax.Array


def meaning_of(inner: optax.GradientTransformation, layout: Layout) -> tuple[Any, str]:
    """Return the shapes of a transformation's state for the stacks of a layout, and what its numbers mean.

    Args:
      inner: a transformation of stacks.
      layout: the layout of a tree.

    Examples:
      >>> from precond.blocks import default_views, layout_of
      >>> meaning_of(optax.identity(), layout_of({}, default_views, None))
      (EmptyState(), '')
    """
    with collect_meanings() as meanings:
        shapes = jax.eval_shape(lambda stacks: inner.init(stacks), layout.stacks)
    return shapes, ", ".join(sorted(meanings))

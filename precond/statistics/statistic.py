"""Define the interface of a statistic, and of the parts from which most of them are made."""

from typing import Any, Protocol

import jax
import optax

from precond.blocks import BlockInfo
from precond.linalg import Packed
from precond.trees import Factors, Stacks

__all__ = ["Statistic", "StatisticUpdate", "TermOf", "Whiten"]


class Whiten(Protocol):
    """Return the matrices that whiten an axis: the type of the extra argument `whiten`.

    `precond.scale_by_kronecker` gives it to its statistics.
    """

    def __call__(self, name: str, axis: int, factor: jax.Array) -> jax.Array:
        """Return the matrices `[N, d, d]` by which the root whitens an axis; zeros where no root is known yet.

        Args:
          name: the name of the stack.
          axis: the axis of its blocks, from 0.
          factor: the factor of this axis as it is now, `[N, d, d]`.
        """
        ...


class TermOf(Protocol):
    """Turn gradients into the array whose Gram matrix is added to one factor."""

    def __call__(
        self, name: str, stack: jax.Array, axis: int, factors: tuple[Packed | None, ...], whiten: Whiten | None
    ) -> jax.Array:
        """Return the array whose Gram matrix is added to the factor of one axis, `[N, d1, .., dk]`.

        Args:
          name: the name of the stack.
          stack: the gradients of the stack, `[N, d1, .., dk]`.
          axis: the axis of its blocks, from 0.
          factors: the stack's factors so far, one for each axis.
          whiten: the function that `precond.scale_by_kronecker` gives; None outside of it.
        """
        ...


class Statistic(Protocol):
    """Estimate curvature: a statistic is an Optax transformation from stacks of gradients to factors.

    Everything that has these two functions is a statistic: `precond.outer_products`, or a chain of Optax's
    transformations around it.

    Examples:
      >>> from precond import outer_products
      >>> statistic: Statistic = outer_products()
    """

    @property
    def init(self) -> optax.TransformInitFn:
        """Make the state from stacks. The engine traces it with shapes alone, so it may not read entries."""
        ...

    @property
    def update(self) -> "StatisticUpdate":
        """Turn gradients into factors."""
        ...


class StatisticUpdate(Protocol):
    """Turn gradients into factors: the type of `Statistic.update`."""

    def __call__(
        self,
        updates: Stacks,
        state: optax.OptState,
        params: Stacks | None = None,
        *,
        blocks: BlockInfo | None = None,
        whiten: Whiten | None = None,
        **extra: Any,
    ) -> tuple[Factors, optax.OptState]:
        """Return the factors after one more gradient.

        Args:
          updates: stacks of raw gradients. Blocks whose gradient is not finite are zero.
          state: the result of `init` or of the last update.
          params: stacks of parameters, or None.
          blocks: the engine's description of the blocks: which of them are finite, and what the model's layers
            captured.
          whiten: a function from a stack's name, an axis and its factor to the matrices that whiten the axis.
          **extra: the arguments that the caller of the optimizer passes.

        Returns:
          Factors, in place of the stacks, and the next state.
        """
        ...

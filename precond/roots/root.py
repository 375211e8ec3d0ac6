"""The interface between the engine and what it knows nothing of: how a factor becomes a preconditioner."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Axis", "Padding", "Power", "Root", "RootState", "identity_like", "powers_of"]

Power = float | Fraction


class Axis(NamedTuple):
    """Whose factor it is, among those of one block.

    Attributes:
      index: of the axis, from 0.
      rank: how many axes the block has.
      order: how many of these have a factor.
    """

    index: int
    rank: int
    order: int


class RootState(NamedTuple):
    """What a root keeps for one stack.

    Attributes:
      derived: one entry an axis: what `refresh` made of its factor (any tree of arrays with leading axis N), or
        None for an axis without a factor.
      moments: what `apply` keeps from step to step; any tree of arrays with leading axis N.
    """

    derived: tuple[Any, ...]
    moments: Any


class Padding(NamedTuple):
    """How a root is refreshed among larger matrices, so that fewer sizes are compiled.

    Attributes:
      factor: from factors `[M, d, d]` and a size D of at least d, to factors `[M, D, D]`.
      derived: the same for what is derived.
      crop: from what is derived `[M, D, D]`, and what it is to have the size of, back.
    """

    factor: Callable[[jax.Array, int], jax.Array]
    derived: Callable[[Any, int], Any]
    crop: Callable[[Any, Any], Any]


class Root(NamedTuple):
    """Pure functions; `refresh` is the only costly one and `apply` runs every step.

    Attributes:
      init: from a stack `[N, d1, .., dk]` and its factors (anything with shape and dtype) to a `RootState`, which
        acts as the identity until the first refresh.
      refresh: from factors `[M, d, d]`, what was derived from them before, their power (a Python number) and whether
        this is the first refresh (a scalar), to what is derived from them now. Factors of different axes, stacks and
        parameters come in one call, if they have the same size and power. What it returns is finite whatever the
        factors are: of a matrix whose root is not, what there was before (`precond.roots.accept` sees to it, and so
        does `precond.roots.last_finite` for a root that does not).
      apply: from what is to be preconditioned and the raw gradient (stacks), and a `RootState`, to the preconditioned
        stack and the state.
      whiten: from derived and factor to the matrices `[N, d, d]` by which this root whitens their axis; zeros where no
        root is known yet. None if the root has no such matrices.
      power: from an `Axis` to a number that `refresh` needs for its factor.
      padding: None if a root depends on the size of its matrix. If you replace `refresh`, and what it derives has
        another form, replace this by None, too.
    """

    init: Callable[[Any, tuple[Any, ...]], RootState]
    refresh: Callable[[jax.Array, Any, Power, jax.Array], Any]
    apply: Callable[[jax.Array, jax.Array, RootState], tuple[jax.Array, RootState]]
    whiten: Callable[[Any, jax.Array], jax.Array] | None
    power: Callable[[Axis], Power]
    padding: Padding | None = None


def powers_of(root: Root, factors: Sequence[Any]) -> list[Power]:
    """What the root needs for each of the factors of one block, without those that are None.

    Examples:
      >>> from precond import inverse_root
      >>> powers_of(inverse_root(), (None, jnp.zeros((1, 2, 2)), jnp.zeros((1, 3, 3))))
      [Fraction(1, 4), Fraction(1, 4)]
    """
    there = [i for i, factor in enumerate(factors) if factor is not None]
    return [root.power(Axis(i, len(factors), len(there))) for i in there]


def identity_like(factor: Any) -> jax.Array:
    """Identity matrices in the shape and dtype of a factor `[N, d, d]`.

    Examples:
      >>> identity_like(jnp.zeros((1, 2, 2))).tolist()
      [[[1.0, 0.0], [0.0, 1.0]]]
    """
    return jnp.zeros(factor.shape, factor.dtype) + jnp.eye(factor.shape[-1], dtype=factor.dtype)

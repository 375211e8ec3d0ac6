"""Define the interface of a root, by which the engine turns factors into preconditioners."""

import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from precond.arguments import made, shown
from precond.trees import Leaf

__all__ = [
    "DENOMINATOR",
    "Axis",
    "Derived",
    "Padding",
    "Power",
    "PowerOf",
    "Root",
    "RootApply",
    "RootInit",
    "RootRefresh",
    "RootState",
    "RootWhiten",
    "TransportOf",
    "as_fraction",
    "identity_like",
    "powers_of",
]

DENOMINATOR = 64
"""The largest denominator of a power: 1 / (2 k) is 1/64 for a block of 32 axes, and blocks have fewer."""

Power = float | Fraction
"""A power of a factor. A fraction says exactly how many products of matrices a root takes."""

Derived = Any
"""The part of a root's state that belongs to one factor: a tree of arrays with leading axis N. Its form is private to
the root."""

Factor = Any
"""A factor `[N, d, d]`: an array, a `jax.ShapeDtypeStruct` or a `precond.linalg.Packed`; `[N, d]` if it is diagonal."""


class Axis(NamedTuple):
    """Say which axis of a block a factor belongs to.

    Attributes:
      index: the position of the axis, from 0.
      rank: the number of axes of the block.
      order: the number of those that have a factor.
    """

    index: int
    rank: int
    order: int


class RootState(NamedTuple):
    """Hold the state of a root for one stack.

    Attributes:
      derived: an entry for each axis: the result of `refresh` for its factor (a tree of arrays with leading axis N), or
        None for an axis without a factor.
      moments: the part of the state that `apply` and `transport` change; a tree of arrays with leading axis N.
    """

    derived: tuple[Derived, ...]
    moments: Any


class RootInit(Protocol):
    """Make the first state: the type of `Root.init`."""

    def __call__(self, stack: Leaf, factors: tuple[Factor | None, ...]) -> RootState:
        """Make the state for one stack; it acts as the identity until the first refresh.

        Args:
          stack: the stack, `[N, d1, .., dk]`, of which only the shape and dtype may be read.
          factors: the factor of each axis, or None; only their shapes and dtypes may be read.
        """
        ...


class RootRefresh(Protocol):
    """Derive matrices from factors: the type of `Root.refresh`."""

    def __call__(self, factors: jax.Array, derived: Derived, power: Power, first: jax.Array) -> Derived:
        """Derive from factors the matrices that `apply` needs. It is the only costly function of a root.

        One call gets the factors of different axes, stacks and parameters, if they have the same size and power.

        Args:
          factors: symmetric matrices, `[M, d, d]`; `[M, d]` if they are diagonal.
          derived: the result for these factors before, from `init` or from the last refresh.
          power: the result of `Root.power` for them, a Python number.
          first: whether this is the first refresh, a boolean scalar.

        Returns:
          A tree of the structure, the shapes and the dtypes of `derived`. It must be finite for all factors: if the
          root of a matrix is not finite, return the one from before, as `precond.roots.accept` and
          `precond.roots.last_finite` do.
        """
        ...


class RootApply(Protocol):
    """Precondition a direction: the type of `Root.apply`."""

    def __call__(self, direction: jax.Array, gradient: jax.Array, state: RootState) -> tuple[jax.Array, RootState]:
        """Precondition one stack. It runs in every step.

        Args:
          direction: the stack to precondition, such as the momentum, `[N, d1, .., dk]`.
          gradient: the raw gradient, of the same shape.
          state: the root's state for this stack.

        Returns:
          The preconditioned stack, and the state with new `moments`.
        """
        ...


class RootWhiten(Protocol):
    """Return the matrices that whiten an axis: the type of `Root.whiten`."""

    def __call__(self, state: RootState, axis: int, factor: jax.Array) -> jax.Array:
        """Return the matrices `[N, d, d]` by which this root whitens an axis; zeros where no root is known yet.

        Args:
          state: the root's state for this stack; `state.derived[axis]` is what `refresh` returned for the axis.
          axis: the axis of the blocks, from 0.
          factor: the factor of this axis as it is now, `[N, d, d]`.
        """
        ...


class TransportOf(Protocol):
    """Move second moments between bases: the type of `Root.transport`.

    A user chooses it by the argument `transport=` of a root, a `precond.roots.Transport`.
    """

    def __call__(self, moments: Any, old: Derived, new: Derived, axis: int) -> Any:
        """Return `RootState.moments` after the refresh of one axis.

        Args:
          moments: the moments of some rows of one stack.
          old: the matrices of this axis before the refresh, of the same rows.
          new: the matrices of this axis after the refresh.
          axis: the axis of the blocks, from 0.
        """
        ...


class PowerOf(Protocol):
    """Choose the power of an axis: the type of `Root.power`."""

    def __call__(self, axis: Axis) -> Power:
        """Return a number that `refresh` needs for the factor of this axis.

        Args:
          axis: the axis of a block.
        """
        ...


class PadFactor(Protocol):
    """Pad factors: the type of `Padding.factor`."""

    def __call__(self, factors: jax.Array, size: int) -> jax.Array:
        """Return factors `[M, d, d]` as `[M, size, size]`, for a size of at least d."""
        ...


class PadDerived(Protocol):
    """Pad derived matrices: the type of `Padding.derived`."""

    def __call__(self, derived: Derived, size: int) -> Derived:
        """Return the matrices derived from factors `[M, d, d]` as if they were derived from the padded factors."""
        ...


class Crop(Protocol):
    """Crop derived matrices: the type of `Padding.crop`."""

    def __call__(self, derived: Derived, like: Derived) -> Derived:
        """Return the matrices derived from padded factors in the sizes of `like`."""
        ...


class Padding(NamedTuple):
    """Say how a root is refreshed among larger matrices, so that fewer sizes are compiled.

    Attributes:
      factor: a function that enlarges factors (`PadFactor`).
      derived: a function that enlarges the matrices derived from them (`PadDerived`).
      crop: a function that cuts the result of a refresh of enlarged factors (`Crop`).
    """

    factor: PadFactor
    derived: PadDerived
    crop: Crop


class Root(NamedTuple):
    """Derive a preconditioner from factors, by pure functions.

    The types of the functions document their arguments, by the names that they must have.

    Attributes:
      init: a function from a stack and its factors to a `RootState` (`precond.roots.root.RootInit`).
      refresh: a function from factors and the matrices derived from them before, to the matrices derived now
        (`precond.roots.root.RootRefresh`). It is the only costly function.
      apply: a function from a direction, a gradient and a state to the preconditioned direction and the state, in every
        step (`precond.roots.root.RootApply`).
      whiten: a function from a state, an axis and its factor to the matrices that whiten the axis
        (`precond.roots.root.RootWhiten`). None if the root has no such matrices.
      power: a function from an `Axis` to a number that `refresh` needs for its factor (`precond.roots.root.PowerOf`).
      padding: the functions that pad factors; None if a root depends on the size of its matrix. If you replace
        `refresh`, and what it derives has another form, replace this by None, too.
      transport: a function from `RootState.moments` and the old and the new matrices of one axis to the moments that
        belong to the new ones (`precond.roots.root.TransportOf`). It runs with each refresh, on the rows that are
        refreshed. None leaves the moments as they are.
      symmetric: whether all matrices that it derives are symmetric, so that `precond.roots.store_as` may keep a
        triangle of each.
    """

    init: RootInit
    refresh: RootRefresh
    apply: RootApply
    whiten: RootWhiten | None
    power: PowerOf
    padding: Padding | None = None
    transport: TransportOf | None = None
    symmetric: bool = False

    def __repr__(self) -> str:
        """Name the function that made it."""
        return made(self)


def as_fraction(power: Power) -> Fraction:
    """Read a power as a fraction with a denominator of at most 64, which says how many products a root takes.

    Args:
      power: a number.

    Examples:
      >>> as_fraction(0.25), as_fraction(1 / 3)
      (Fraction(1, 4), Fraction(1, 3))
    """
    return Fraction(power).limit_denominator(DENOMINATOR)


def powers_of(root: Root, factors: Sequence[Factor | None]) -> list[Power]:
    """Return the powers of the factors of one block, without those that are None.

    Args:
      root: the root that needs the powers.
      factors: the factors of the block, one for each axis.

    Raises:
      TypeError: for a power that is not a number.

    Examples:
      >>> from precond import inverse_root
      >>> powers_of(inverse_root(), (None, jnp.zeros((1, 2, 2)), jnp.zeros((1, 3, 3))))
      [Fraction(1, 4), Fraction(1, 4)]
    """
    there = [i for i, factor in enumerate(factors) if factor is not None]
    found = [root.power(Axis(i, len(factors), len(there))) for i in there]
    if wrong := [q for q in found if not isinstance(q, int | float | Fraction)]:
        raise TypeError(f"The power of a root is {shown(wrong[0])} for an axis: it must be a Python number.")
    return found


def identity_like(factor: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
    """Return identity matrices in the shape and dtype of a factor `[N, d, d]`.

    Examples:
      >>> identity_like(jnp.zeros((1, 2, 2))).tolist()
      [[[1.0, 0.0], [0.0, 1.0]]]
    """
    return _identities(jax.ShapeDtypeStruct(factor.shape, factor.dtype))


@functools.partial(jax.jit, static_argnums=0)  # outside of jit, one program in place of six
def _identities(stack: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros(stack.shape, stack.dtype) + jnp.eye(stack.shape[-1], dtype=stack.dtype)

"""Define the interface of a method, which computes inverse roots and orthonormal bases of factors."""

from typing import NamedTuple, Protocol

import jax

from precond.roots.root import Power

__all__ = ["BasisOf", "Method", "Ridge", "RootOf", "RootResult"]


class Ridge(Protocol):
    """Compute ridges: the type of the `ridge` that a method is given."""

    def __call__(self, largest: jax.Array, /) -> jax.Array:
        """Return the number that is added to the diagonal of each matrix, `[M]`.

        Args:
          largest: the largest eigenvalue of each matrix, `[M]`.
        """
        ...


class RootResult(NamedTuple):
    """Hold roots, and the numbers that a method finds with them.

    Attributes:
      root: the roots `(A + ridge I)^(-power)`, `[M, d, d]`.
      largest: the largest eigenvalue of each A, `[M]`.
      ridge: the number that was added to each diagonal, `[M]`.
      condition: the condition number of each `A + ridge I`, `[M]`.
    """

    root: jax.Array
    largest: jax.Array
    ridge: jax.Array
    condition: jax.Array


class RootOf(Protocol):
    """Compute roots: the type of `Method.root`."""

    def __call__(self, a: jax.Array, power: Power, ridge: Ridge, least: float) -> RootResult:
        """Compute `(A + ridge I)^(-power)`.

        Args:
          a: symmetric positive semi-definite matrices of magnitude about 1, `[M, d, d]`.
          power: a positive Python number.
          ridge: a function from the largest eigenvalues, `[M]`, to the numbers that are added to the diagonals, `[M]`.
          least: a lower bound of the ridge, relative to the largest eigenvalue; 0 if nothing is known.
        """
        ...


class BasisOf(Protocol):
    """Compute bases: the type of `Method.basis`."""

    def __call__(self, a: jax.Array, old: jax.Array, first: jax.Array) -> jax.Array:
        """Compute orthonormal bases near the eigenvectors of A, in the columns of `[M, d, d]`.

        Args:
          a: symmetric positive semi-definite matrices, `[M, d, d]`.
          old: the bases before, `[M, d, d]`. Column j of the result continues column j of these, except where `first`
            is true.
          first: whether a matrix has no basis yet, `[M]` booleans.
        """
        ...


class Method(NamedTuple):
    """Compute roots and bases by one algorithm.

    Attributes:
      name: the name of the function that made it, for errors.
      root: a function from factors, a power and a ridge to roots (`precond.roots.methods.RootOf`); None if the method
        computes no roots.
      basis: a function from factors and the bases before to bases (`precond.roots.methods.BasisOf`); None if the method
        computes no bases.
      keeps_zeros: whether matrices that end with rows and columns of zeros may be given to `basis`. The unit vectors of
        these rows are then the first columns of the old basis, and must be those of the new one, up to signs. The other
        columns must be the basis of the rest. Then matrices of many sizes are padded to a few, and the program compiles
        sooner.
    """

    name: str
    root: RootOf | None
    basis: BasisOf | None
    keeps_zeros: bool = False

    def __repr__(self) -> str:
        """Return the name of the function that made it."""
        return self.name

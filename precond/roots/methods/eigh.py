"""Decompose factors into eigenvalues and eigenvectors, for roots and bases."""

import jax
import jax.numpy as jnp

from precond.arguments import described
from precond.linalg import eigh_root, first_basis
from precond.roots.methods.method import Method, Ridge, RootResult
from precond.roots.root import Power

__all__ = ["eigh"]


@described()
def eigh() -> Method:
    """Decompose factors into eigenvalues and eigenvectors; for roots and bases.

    It is accurate at any condition number that the dtype can hold, and hard to beat on CPU.

    Examples:
      >>> from precond import eigenbasis, inverse_root
      >>> root, basis = inverse_root(method=eigh()), eigenbasis(method=eigh())
    """

    def root(a: jax.Array, power: Power, ridge: Ridge, least: float) -> RootResult:
        del least
        out, values, added = eigh_root(a, float(power), ridge)
        largest, smallest = values[:, -1], jnp.maximum(values[:, 0], 0)
        return RootResult(out, largest, added, (largest + added) / (smallest + added))

    return Method("eigh()", root, lambda a, old, first: first_basis(a, old), keeps_zeros=True)

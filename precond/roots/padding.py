"""Pad factors, and what is derived from them, so that matrices of many sizes are refreshed in a few."""

import jax
import jax.numpy as jnp

from precond.roots.guard import Checked
from precond.roots.root import Padding

__all__ = ["BASIS_PADDING", "PADDING"]


def _larger(matrices: jax.Array, size: int, diagonal: jax.Array) -> jax.Array:
    """Enlarge matrices to a size, with the given numbers on the new part of the diagonal and zeros elsewhere."""
    d = matrices.shape[-1]
    if d == size or matrices.ndim < 3:
        return matrices
    new = jnp.where(jnp.arange(size) >= d, diagonal[:, None], 0)[:, :, None] * jnp.eye(size, dtype=matrices.dtype)
    return jnp.pad(matrices, ((0, 0), (0, size - d), (0, size - d))) + new.astype(matrices.dtype)


def _with_their_mean(factors: jax.Array, size: int) -> jax.Array:
    # The mean eigenvalue changes neither the trace over the size nor an extreme eigenvalue.
    if factors.ndim < 3:
        return factors
    return _larger(factors, size, jnp.trace(factors, axis1=1, axis2=2) / factors.shape[-1])


def _with_identity(derived: Checked, size: int) -> Checked:
    return derived._replace(matrix=_larger(derived.matrix, size, jnp.ones_like(derived.health.numbers[:, 0])))


def _cropped(derived: Checked, like: Checked) -> Checked:
    sides = [slice(0, d) for d in like.matrix.shape[1:]]
    return derived._replace(matrix=derived.matrix[:, *sides])


PADDING = Padding(_with_their_mean, _with_identity, _cropped)
"""The padding of roots that are matrix functions: the root of a block-diagonal matrix consists of the blocks' roots."""


def _with_zeros(factors: jax.Array, size: int) -> jax.Array:
    more = size - factors.shape[-1]
    return jnp.pad(factors, ((0, 0), (0, more), (0, more)))


def _larger_basis(derived: Checked, size: int) -> Checked:
    d = derived.matrix.shape[-1]
    corner = jnp.pad(jnp.eye(size - d, dtype=derived.matrix.dtype), ((d, 0), (0, d)))
    return derived._replace(matrix=jnp.pad(derived.matrix, ((0, 0), (0, size - d), (size - d, 0))) + corner)


def _cropped_basis(derived: Checked, like: Checked) -> Checked:
    d = like.matrix.shape[-1]
    return derived._replace(matrix=derived.matrix[:, :d, -d:])


BASIS_PADDING = Padding(_with_zeros, _larger_basis, _cropped_basis)
"""The padding of eigenvectors. Zeros have no direction that a basis follows, so the unit vectors of their rows stay.

Their rows are the last ones, so that a QR decomposition needs no pivot among them and no rounding reaches them. Their
columns are the first ones, as those of the smallest eigenvalues are where a method orders eigenvectors.
"""

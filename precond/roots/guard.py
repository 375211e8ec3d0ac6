"""Check every root: refuse a bad one, keep the last good one, and raise the damping of the next attempt."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from precond.blocks import keep_finite
from precond.linalg import orthogonality_residual
from precond.roots.methods.method import BasisOf
from precond.roots.root import identity_like

__all__ = [
    "ORTHOGONAL",
    "Checked",
    "Health",
    "accept",
    "escalated_ridge",
    "refresh_basis",
    "unchecked",
]

ORTHOGONAL = 0.01
"""The largest accepted error of orthonormality. A gradient that is rotated into the basis and back changes by as
much."""

_MAX_ESCALATION = 8  # powers of ten by which damping is raised: 1e-6 becomes 100, with which every root is good


class Health(NamedTuple):
    """Hold the health of each matrix of a stack, `[N]` each, all finite.

    Attributes:
      numbers: all numbers, `[N, 6]`, in the order of the properties below. They are one array, so that a refresh takes,
        puts back and sends only one.
    """

    numbers: jax.Array

    @property
    def residual(self) -> jax.Array:
        """The residual of the last attempt, accepted or not; the largest number of its type if it was not finite."""
        return self.numbers[..., 0]

    @property
    def damping(self) -> jax.Array:
        """The ridge in use, relative to the largest eigenvalue; 0 if nothing is added."""
        return self.numbers[..., 1]

    @property
    def condition(self) -> jax.Array:
        """The condition number of the damped factor whose root is in use; 1 before there is a root."""
        return jnp.maximum(self.numbers[..., 2], 1)

    @property
    def known(self) -> jax.Array:
        """Whether the matrix in use is a root: before the first one, and for a zero factor, it is the identity."""
        return self.numbers[..., 2] > 0

    @property
    def escalated(self) -> jax.Array:
        """The number of powers of ten by which the damping of the next attempt is raised."""
        return self.numbers[..., 3].astype(jnp.int32)

    @property
    def refused(self) -> jax.Array:
        """The number of attempts refused so far."""
        return self.numbers[..., 4].astype(jnp.int32)

    @property
    def stale(self) -> jax.Array:
        """The number of attempts refused since the last one that was accepted."""
        return self.numbers[..., 5].astype(jnp.int32)


class Checked(NamedTuple):
    """Hold roots or bases, and their health.

    Attributes:
      matrix: the roots or bases, `[N, d, d]`.
      health: the health of each matrix.
    """

    matrix: jax.Array
    health: Health


def unchecked(factor: jax.Array | jax.ShapeDtypeStruct) -> Checked:
    """Make identity matrices in the shape of a factor `[N, d, d]`, which are used until the first refresh.

    Examples:
      >>> unchecked(jnp.zeros((1, 1, 1))).health.condition.tolist()
      [1.0]
    """
    return Checked(identity_like(factor), Health(jnp.zeros((factor.shape[0], 6), factor.dtype)))


def escalated_ridge(ridge: jax.Array, largest: jax.Array, old: Checked) -> jax.Array:
    """Multiply the ridge by ten for each escalation; an escalated ridge is at least the unit of rounding.

    Args:
      ridge: the ridge of each matrix before escalation, `[M]`.
      largest: the largest eigenvalue of each matrix, `[M]`.
      old: the roots in use.

    Examples:
      >>> escalated_ridge(jnp.ones(1), jnp.ones(1), unchecked(jnp.zeros((1, 1, 1)))).item()
      1.0
    """
    level = old.health.escalated.astype(ridge.dtype)
    rounding = float(jnp.finfo(ridge.dtype).eps) * largest
    return jnp.where(level > 0, jnp.maximum(ridge, rounding) * 10.0**level, ridge)


def accept(
    matrix: jax.Array,
    residual: jax.Array,
    old: Checked,
    tolerance: float,
    *,
    damping: jax.Array,
    condition: jax.Array,
) -> Checked:
    """Take each new matrix whose residual is within the tolerance; else keep the old one, and raise its damping.

    Each refusal raises the damping of the next attempt by a factor of ten. An acceptance lowers it again if a tenth of
    the damping would probably be accepted, too, since the rounding in the residual grows as the damping falls.

    Args:
      matrix: the new matrices, `[M, d, d]`, or another array with a row for each matrix, such as a diagonal.
      residual: the residual of each new matrix, `[M]`. NaN is refused, and so is a matrix that is not finite.
      old: the matrices that were in use.
      tolerance: the largest residual that is accepted; infinity accepts every finite matrix.
      damping: the ridge of each new matrix, relative to the largest eigenvalue, `[M]`.
      condition: the condition number of each damped factor, `[M]`; 0 for a zero factor.

    Returns:
      The matrices that are in use now.

    Examples:
      >>> old, ones = unchecked(jnp.zeros((1, 1, 1))), jnp.ones(1)
      >>> new = accept(
      ...     jnp.full((1, 1, 1), 5.0),
      ...     jnp.asarray([jnp.nan]),
      ...     old,
      ...     0.1,
      ...     damping=ones,
      ...     condition=ones,
      ... )
      >>> new.matrix.item(), new.health.refused.item(), new.health.escalated.item()
      (1.0, 1, 1)
    """
    top = float(jnp.finfo(residual.dtype).max)
    # If an entry is not finite, neither is the maximum.
    good = (residual <= tolerance) & (jnp.max(jnp.abs(matrix), axis=tuple(range(1, matrix.ndim))) <= top)
    _, kept_damping, kept_condition, escalated, refused, stale = jnp.moveaxis(old.health.numbers, 1, 0)
    # A tenth of the damping makes the residual up to ten times as large, and its estimate is right to a factor of 2.
    bad, may_lower = (~good).astype(residual.dtype), good & (10 * residual <= tolerance / 2)
    numbers = [
        residual,
        jnp.where(good, damping, kept_damping),
        jnp.where(good, condition, kept_condition),
        jnp.clip(escalated + bad - may_lower, 0, _MAX_ESCALATION),
        refused + bad,
        (stale + 1) * bad,
    ]
    health = Health(jnp.nan_to_num(jnp.stack(numbers, axis=1), nan=top, posinf=top, neginf=top))
    return Checked(keep_finite(good, matrix, old.matrix), health)


def refresh_basis(basis_of: BasisOf, factors: jax.Array, old: Checked, first: jax.Array) -> Checked:
    """Refresh bases, and keep the old basis where the new one is not orthonormal or the factor is not finite.

    A factor of zeros has seen no gradient and has no basis of its own. The first refresh of a matrix is the first one
    at which its factor has entries.

    Args:
      basis_of: `precond.Method.basis`.
      factors: the factors, `[M, d, d]`.
      old: the bases in use.
      first: whether this is the first refresh of all, a boolean scalar.

    Examples:
      >>> old = unchecked(jnp.zeros((2, 1, 1)))
      >>> factors = jnp.asarray([[[1.0]], [[jnp.inf]]])
      >>> refresh_basis(
      ...     lambda a, old, first: old, factors, old, jnp.asarray(True)
      ... ).health.refused.tolist()
      [0, 1]
    """
    largest = jnp.max(jnp.abs(factors), axis=(1, 2))
    basis = basis_of(factors, old.matrix, (first | ~old.health.known) & (largest > 0))
    residual = jnp.where(largest < jnp.inf, orthogonality_residual(basis), jnp.inf)
    nothing, condition = jnp.zeros_like(largest), (largest > 0).astype(largest.dtype)  # nothing is inverted
    return accept(basis, residual, old, ORTHOGONAL, damping=nothing, condition=condition)

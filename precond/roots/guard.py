"""No root is believed unchecked: what is accepted, what is kept, and what is tried next."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from precond.blocks import keep_finite
from precond.roots.root import Padding, identity_like

__all__ = ["PADDING", "Checked", "Health", "accept", "raised", "unchecked"]

_TOP = 8  # powers of ten by which damping is raised at most


class Health(NamedTuple):
    """What is known of each matrix of a stack, `[N]` each, all finite.

    Attributes:
      numbers: all of them, `[N, 6]` in the order below: one array, which is picked, put back and sent as one.
    """

    numbers: jax.Array

    @property
    def residual(self) -> jax.Array:
        """Of the last attempt, whether accepted or not; the largest number of its type where it was not finite."""
        return self.numbers[:, 0]

    @property
    def damping(self) -> jax.Array:
        """The ridge in use, relative to the largest eigenvalue; 0 where there is none."""
        return self.numbers[:, 1]

    @property
    def condition(self) -> jax.Array:
        """Of the damped factor whose root is in use; 1 before there is a root."""
        return jnp.maximum(self.numbers[:, 2], 1)

    @property
    def known(self) -> jax.Array:
        """Whether the root in use is that of a factor. It is the identity before the first, and for a zero factor."""
        return self.numbers[:, 2] > 0

    @property
    def escalated(self) -> jax.Array:
        """By how many powers of ten the damping of the next attempt is raised."""
        return self.numbers[:, 3].astype(jnp.int32)

    @property
    def refused(self) -> jax.Array:
        """Attempts refused so far."""
        return self.numbers[:, 4].astype(jnp.int32)

    @property
    def stale(self) -> jax.Array:
        """Of these, those since the last one that was accepted."""
        return self.numbers[:, 5].astype(jnp.int32)


class Checked(NamedTuple):
    """A root or a basis, and its health.

    Attributes:
      matrix: `[N, d, d]`.
      health: of each.
    """

    matrix: jax.Array
    health: Health


def unchecked(factor: jax.Array | jax.ShapeDtypeStruct) -> Checked:
    """Identity matrices in the shape of a factor `[N, d, d]`: what is used until the first refresh.

    Examples:
      >>> unchecked(jnp.zeros((1, 1, 1))).health.condition.tolist()
      [1.0]
    """
    return Checked(identity_like(factor), Health(jnp.zeros((factor.shape[0], 6), factor.dtype)))


def raised(ridge: jax.Array, largest: jax.Array, old: Checked) -> jax.Array:
    """The ridge times ten for each escalation; and at least the unit of rounding, where there is one.

    Args:
      ridge: as the damping has it, `[M]`.
      largest: eigenvalues, `[M]`.
      old: what is in use.

    Examples:
      >>> raised(jnp.ones(1), jnp.ones(1), unchecked(jnp.zeros((1, 1, 1)))).item()
      1.0
    """
    level = old.health.numbers[:, 3].astype(ridge.dtype)
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

    The damping of the next attempt is raised by a factor of ten by each refusal, and lowered again by an acceptance
    that would have been one with a tenth of the damping too: rounding enters the residual in inverse proportion.

    Args:
      matrix: `[M, d, d]`, or whatever else has a row for each, as a diagonal has.
      residual: of each, `[M]`; NaN is refused, and so is a matrix that is not finite.
      old: what was in use.
      tolerance: on the residual; with infinity all is accepted that is finite.
      damping: of the new matrices, relative to the largest eigenvalue, `[M]`.
      condition: of the damped factors, `[M]`; 0 for a zero factor.

    Returns:
      What is in use now.

    Examples:
      >>> old, ones = unchecked(jnp.zeros((1, 1, 1))), jnp.ones(1)
      >>> new = accept(jnp.full((1, 1, 1), 5.0), jnp.asarray([jnp.nan]), old, 0.1, damping=ones, condition=ones)
      >>> new.matrix.item(), new.health.refused.item(), new.health.escalated.item()
      (1.0, 1, 1)
    """
    top = float(jnp.finfo(residual.dtype).max)
    # Of one that is not finite, a maximum is neither.
    good = (residual <= tolerance) & (jnp.max(jnp.abs(matrix), axis=tuple(range(1, matrix.ndim))) <= top)
    _, kept_damping, kept_condition, escalated, refused, stale = jnp.moveaxis(old.health.numbers, 1, 0)
    bad, easy = (~good).astype(residual.dtype), good & (10 * residual <= tolerance / 2)
    numbers = [
        residual,
        jnp.where(good, damping, kept_damping),
        jnp.where(good, condition, kept_condition),
        jnp.clip(escalated + bad - easy, 0, _TOP),
        refused + bad,
        (stale + 1) * bad,
    ]
    health = Health(jnp.nan_to_num(jnp.stack(numbers, axis=1), nan=top, posinf=top, neginf=top))
    return Checked(keep_finite(good, matrix, old.matrix), health)


def _larger(matrices: jax.Array, size: int, diagonal: jax.Array) -> jax.Array:
    """Matrices with as many rows and columns more as are missing, and so much on the diagonal there."""
    d = matrices.shape[-1]
    if d == size or matrices.ndim < 3:
        return matrices
    there = jnp.arange(size) >= d
    out = jnp.pad(matrices, ((0, 0), (0, size - d), (0, size - d)))
    more = jnp.where(there, diagonal[:, None], 0)[:, :, None] * jnp.eye(size, dtype=matrices.dtype)
    return out + more.astype(matrices.dtype)


def _larger_factor(factors: jax.Array, size: int) -> jax.Array:
    # By the mean eigenvalue: neither the trace over the size nor any extreme eigenvalue changes.
    if factors.ndim < 3:
        return factors
    return _larger(factors, size, jnp.trace(factors, axis1=1, axis2=2) / factors.shape[-1])


def _larger_derived(derived: Checked, size: int) -> Checked:
    return derived._replace(matrix=_larger(derived.matrix, size, jnp.ones_like(derived.health.numbers[:, 0])))


def _cropped(derived: Checked, like: Checked) -> Checked:
    sides = [slice(0, d) for d in like.matrix.shape[1:]]
    return derived._replace(matrix=derived.matrix[:, *sides])


PADDING = Padding(_larger_factor, _larger_derived, _cropped)
"""Of roots that are functions of a matrix: those of a matrix in two blocks are those of the blocks."""

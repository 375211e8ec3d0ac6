"""No root is believed unchecked: what is accepted, what is kept, and what is tried next."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from precond.roots.root import identity_like

__all__ = ["Checked", "Health", "accept", "raised", "unchecked"]

_TOP = 8  # powers of ten by which damping is raised at most


class Health(NamedTuple):
    """What is known of each matrix of a stack, `[N]` each, all finite.

    Attributes:
      residual: of the last attempt, whether accepted or not; the largest number of its type where it was not finite.
      damping: the ridge in use, relative to the largest eigenvalue; 0 where there is none.
      condition: of the damped factor whose root is in use; 1 before the first.
      escalated: by how many powers of ten the damping of the next attempt is raised.
      refused: attempts refused so far.
      stale: of these, those since the last one that was accepted.
    """

    residual: jax.Array
    damping: jax.Array
    condition: jax.Array
    escalated: jax.Array
    refused: jax.Array
    stale: jax.Array


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
    n, dtype = factor.shape[:1], factor.dtype
    # Every entry an array of its own: one that stands in two places cannot be donated.
    residual, damping = jnp.zeros(n, dtype), jnp.zeros(n, dtype)
    counts = [jnp.zeros(n, jnp.int32) for _ in range(3)]
    return Checked(identity_like(factor), Health(residual, damping, jnp.ones(n, dtype), *counts))


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
    level = old.health.escalated
    rounding = float(jnp.finfo(ridge.dtype).eps) * largest
    return jnp.where(level > 0, jnp.maximum(ridge, rounding) * 10.0 ** level.astype(ridge.dtype), ridge)


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
      matrix: `[M, d, d]`.
      residual: of each, `[M]`; NaN is refused, and so is a matrix that is not finite.
      old: what was in use.
      tolerance: on the residual; with infinity all is accepted that is finite.
      damping: of the new matrices, relative to the largest eigenvalue, `[M]`.
      condition: of the damped factors, `[M]`.

    Returns:
      What is in use now.

    Examples:
      >>> old, ones = unchecked(jnp.zeros((1, 1, 1))), jnp.ones(1)
      >>> new = accept(jnp.full((1, 1, 1), 5.0), jnp.asarray([jnp.nan]), old, 0.1, damping=ones, condition=ones)
      >>> new.matrix.item(), new.health.refused.item(), new.health.escalated.item()
      (1.0, 1, 1)
    """
    top = float(jnp.finfo(residual.dtype).max)
    good = (residual <= tolerance) & jnp.all(jnp.isfinite(matrix), axis=(1, 2))
    health, bad = old.health, (~good).astype(jnp.int32)
    easy = good & (10 * residual <= tolerance / 2)
    new = Health(
        residual=jnp.where(jnp.isfinite(residual), residual, top),
        damping=jnp.where(good, jnp.minimum(damping, top), health.damping),
        condition=jnp.where(good, jnp.minimum(condition, top), health.condition),
        escalated=jnp.clip(health.escalated + bad - easy, 0, _TOP),
        refused=health.refused + bad,
        stale=(health.stale + 1) * bad,
    )
    return Checked(jnp.where(good[:, None, None], matrix, old.matrix), new)

"""Rotate a basis by matrix products alone."""

import functools
import math

import jax
import jax.numpy as jnp

from precond.arguments import check_number, check_whole, described
from precond.blocks import keep_finite
from precond.control_flow import loop_between
from precond.linalg import redecompose_worst, rotate_basis
from precond.roots.methods.method import Method
from precond.roots.methods.tracked_basis import tracked_basis

__all__ = ["rotations"]


_FIRST = 96  # sweeps from the identity find the eigenvectors of matrices of up to 768 rows (see `rotate_basis`)


@described()
def rotations(*, sweeps: int = 2, tolerance: float = 0.1, group: int | None = 8) -> Method:
    """Rotate bases by matrix products, after `eigh` the first time or without it; for bases only.

    Rotations follow statistics that drift, not those that jump. So after every refresh the bases are measured. Of every
    `group` consecutive matrices, the one with the worst basis is decomposed by `eigh`, and its basis is replaced if it
    is above the tolerance. The number of decompositions is the same in every step. Groups are counted from the first of
    the matrices that are refreshed together.

    Use it on devices that multiply much faster than they decompose; on CPU `eigh` itself is cheaper. With `group=None`
    nothing is ever decomposed. The first basis then comes from 96 sweeps, which begin at the identity. They do not
    rotate directions with equal diagonal entries, as in a matrix of ones.

    Args:
      sweeps: the number of sweeps in a refresh. Two are more accurate than `precond.qr` except on the fastest drift.
        One is more accurate on synthetic statistics with a decay of 0.99 or more, and about as accurate on recorded
        ones.
      tolerance: the largest `precond.linalg.scaled_off_diagonal` of a good basis; 0.1 is an error of 2 to 5 % in
        `A^(-1/4)`.
      group: the number of consecutive matrices of which one is decomposed; None decomposes nothing, not even the first
        time.

    Raises:
      ValueError, TypeError: for a number out of range.

    Reference:
      See `precond.linalg.rotate_basis`.

    Examples:
      >>> from precond import eigenbasis
      >>> root = eigenbasis(method=rotations(sweeps=1))
    """
    check_whole("sweeps", sweeps, least=1)
    check_number("tolerance", tolerance, 0, math.inf)
    if group is not None:
        check_whole("group", group, least=1)

    if group is None:
        alone = functools.partial(_without_decompositions, sweeps=sweeps)
        return Method("rotations(group=None)", None, alone, keeps_zeros=True)

    def step(a: jax.Array, old: jax.Array) -> jax.Array:
        return redecompose_worst(a, rotate_basis(a, old, sweeps), tolerance, group)

    return Method("rotations()", None, tracked_basis(step))


def _without_decompositions(a: jax.Array, old: jax.Array, first: jax.Array, *, sweeps: int) -> jax.Array:
    """Rotate bases once, or as often as first bases need, in one loop, so that a refresh is compiled once.

    If a matrix needs its first basis, all are rotated as often, but the others keep the basis after the first time.
    """
    most = -(-_FIRST // sweeps)
    first = jnp.broadcast_to(first, a.shape[:1])

    def refresh(i: jax.Array, basis: jax.Array, given: tuple[jax.Array, jax.Array]) -> jax.Array:
        a, first = given
        return keep_finite(first | (i == 0), rotate_basis(a, basis, sweeps), basis)

    return loop_between(0, jnp.where(jnp.any(first), most, 1), refresh, old, (a, first), most=most)

"""Rotations of a basis by matrix products alone."""

import jax

from precond.arguments import check_number, check_whole, described
from precond.linalg import redecompose_worst, rotate_basis
from precond.roots.methods.following import following
from precond.roots.methods.method import Method

__all__ = ["rotations"]


@described()
def rotations(*, sweeps: int = 2, tolerance: float = 0.1, group: int | None = 8) -> Method:
    """Rotate bases by matrix products alone, after `eigh` the first time; for bases only.

    Rotations follow statistics that drift, not those that jump. So after every refresh the bases are measured. Of
    every `group` matrices in a row, the one whose basis is worst is decomposed by `eigh`, and its basis is replaced if
    it is above the tolerance. The number of decompositions is the same in every step. Groups are counted from the first
    of the matrices that are refreshed together.

    Use it on devices that multiply much faster than they decompose; on CPU `eigh` itself is cheaper.

    Args:
      sweeps: 2 are more accurate than `precond.qr` on all but the fastest drift; 1 on synthetic statistics with a decay
        of 0.99 or more, and about as accurate on recorded ones.
      tolerance: on `precond.linalg.scaled_off_diagonal`; 0.1 is an error of 2 to 5 % in `A^(-1/4)`.
      group: one in so many is decomposed; None decomposes none after the first time.

    Raises:
      ValueError, TypeError: for a number out of range.

    Reference:
      See `precond.linalg.rotate_basis`.

    Examples:
      >>> from precond import eigenbasis
      >>> root = eigenbasis(method=rotations(sweeps=1))
    """
    check_whole("sweeps", sweeps, least=1)
    check_number("tolerance", tolerance, 0)
    if group is not None:
        check_whole("group", group, least=1)

    def step(a: jax.Array, old: jax.Array) -> jax.Array:
        new = rotate_basis(a, old, sweeps)
        return new if group is None else redecompose_worst(a, new, tolerance, group)

    return Method("rotations()", None, following(step))

"""Move second moments that are kept in a basis when the basis is refreshed."""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from precond.blocks import keep_finite
from precond.linalg import dot_precision, multiply_axis

__all__ = ["MoveMoments", "Transport", "rotated", "unchanged"]


class MoveMoments(Protocol):
    """Move second moments to the new basis of one axis: the type of `Transport.move`."""

    def __call__(self, moments: jax.Array, old: jax.Array, new: jax.Array, axis: int) -> jax.Array:
        """Return second moments in the new basis of one axis.

        Args:
          moments: the moments in the old basis, `[N, d1, .., dk]`.
          old: the old bases of this axis in their columns, `[N, d, d]`.
          new: the new bases of this axis.
          axis: the axis of the blocks, from 0.
        """
        ...


class Transport(NamedTuple):
    """Say how second moments change when the basis of an axis is refreshed.

    It is the value of the argument `transport=`. `Root.transport` is the function that a root makes of it
    (`precond.roots.eigenbasis.transport_by`), for a whole `RootState.moments`.

    Attributes:
      name: the text that the user types to get it.
      move: a function from second moments and two bases of one axis to second moments
        (`precond.roots.transport.MoveMoments`). None leaves them as they are, and costs nothing.
    """

    name: str
    move: MoveMoments | None

    def __repr__(self) -> str:
        """Return what the user types to get it."""
        return self.name


def unchanged() -> Transport:
    """Leave second moments as they are, as the official SOAP does: entry j belongs to column j of the new basis, too.

    Examples:
      >>> unchanged().move is None
      True
    """
    return Transport("unchanged()", None)


def rotated() -> Transport:
    r"""Rotate second moments with the basis.

    $$V' = (P \circ P) V (O \circ O)^\top$$

    $P = Q_L'^\top Q_L$ takes coordinates in the old basis to coordinates in the new one, $O$ does so for the other
    axis, and $\circ$ is the product by element. If the coordinates in the old basis are independent and have mean 0,
    these are exactly their second moments in the new one. The sum of V does not change.

    Without it, a basis can rotate towards one very large gradient while second moments do not contain it. Then updates
    grow by an order of magnitude for many steps. It costs two products for each basis that is refreshed. Second moments
    of a basis that stays as it was do not change, not by a bit.

    Examples:
      >>> swap = jnp.asarray([[[0.0, 1.0], [1.0, 0.0]]])
      >>> rotated().move(jnp.asarray([[2.0, 3.0]]), jnp.eye(2)[None], swap, 0).tolist()
      [[3.0, 2.0]]
    """
    return Transport("rotated()", _rotate)


def _rotate(moments: jax.Array, old: jax.Array, new: jax.Array, axis: int) -> jax.Array:
    between = jnp.matmul(jnp.swapaxes(new, 1, 2), old, precision=dot_precision())
    out = multiply_axis(moments, jnp.square(between).astype(moments.dtype), axis)
    return keep_finite(jnp.any(old != new, axis=(1, 2)), out, moments)

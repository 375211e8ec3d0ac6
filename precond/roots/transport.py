"""Rules by which second moments that are kept in a basis follow it when it turns."""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from precond.blocks import keep_finite
from precond.linalg import dot_precision, multiply_axis

__all__ = ["MoveMoments", "Transport", "kept", "turned"]


class MoveMoments(Protocol):
    """Move second moments to the new basis of one axis: the type of `Transport.move`."""

    def __call__(self, moments: jax.Array, old: jax.Array, new: jax.Array, axis: int) -> jax.Array:
        """Return second moments in the new basis of one axis.

        Args:
          moments: in the old basis, `[N, d1, .., dk]`.
          old: the old bases of this axis in their columns, `[N, d, d]`.
          new: the new ones.
          axis: of the blocks, from 0.
        """
        ...


class Transport(NamedTuple):
    """Say what becomes of second moments when the basis of an axis is refreshed.

    Attributes:
      name: what the user types to get it.
      move: `precond.roots.transport.MoveMoments`, from second moments and two bases of one axis to second moments; None
        leaves them as they are, and costs nothing.
    """

    name: str
    move: MoveMoments | None

    def __repr__(self) -> str:
        """Return what the user types to get it."""
        return self.name


def kept() -> Transport:
    """Leave second moments where they are, as the official SOAP does: entry j goes on with column j of the new basis.

    Examples:
      >>> kept().move is None
      True
    """
    return Transport("kept()", None)


def turned() -> Transport:
    r"""Turn second moments with the basis.

    $$V' = (P \circ P) V (O \circ O)^\top$$

    $P = Q_L'^\top Q_L$ takes coordinates in the old basis to coordinates in the new one, $O$ does so for the other
    axis, and $\circ$ is the product by element. If the coordinates in the old basis are independent and have mean 0,
    these are exactly their second moments in the new one. The sum of V does not change.

    Without it, a basis that turns towards one very large gradient meets second moments that never saw it, and updates
    grow by an order of magnitude for many steps. It costs two products for each basis that is refreshed. Second moments
    of a basis that stays as it was are not changed by a bit.

    Examples:
      >>> swap = jnp.asarray([[[0.0, 1.0], [1.0, 0.0]]])
      >>> turned().move(jnp.asarray([[2.0, 3.0]]), jnp.eye(2)[None], swap, 0).tolist()
      [[3.0, 2.0]]
    """
    return Transport("turned()", _turn)


def _turn(moments: jax.Array, old: jax.Array, new: jax.Array, axis: int) -> jax.Array:
    between = jnp.matmul(jnp.swapaxes(new, 1, 2), old, precision=dot_precision())
    out = multiply_axis(moments, jnp.square(between).astype(moments.dtype), axis)
    return keep_finite(jnp.any(old != new, axis=(1, 2)), out, moments)

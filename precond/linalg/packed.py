"""Keep stacks of symmetric matrices in half the memory, in LAPACK's rectangular full packed format."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from precond.linalg.precision import dot_precision

__all__ = ["Factor", "Packed", "dense", "eye_like", "packed", "packed_gram", "trace"]


class Packed(NamedTuple):
    """Hold a stack of symmetric matrices, each with every entry once.

    Cut A at half its size, `[[P, B^T], [B, C]]`. The triangles P and C share one square, and B is below it. For an even
    size the square has one diagonal, which is that of P, and the diagonal of C is kept in an array of its own.
    (LAPACK's format has one more row for it. But a TPU keeps an array of 769 rows in another order than the one in
    which it computes.) Sums and multiples of packed matrices are those of their parts.

    Attributes:
      rectangle: the square and B, `[N, d, d / 2]` for even d, `[N, d, (d + 1) / 2]` for odd.
      diagonal: the diagonal of C, `[N, d / 2]`, for even d; None for odd.

    Reference:
      Gustavson et al., Rectangular Full Packed Format for Cholesky's Algorithm, 2010.
    """

    rectangle: jax.Array
    diagonal: jax.Array | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the matrices, `(N, d, d)`."""
        n, d, _ = self.rectangle.shape
        return n, d, d

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the matrices."""
        return self.rectangle.dtype


Factor = jax.Array | Packed
"""Factors `[N, d, d]`, dense or packed, or their diagonals `[N, d]`."""


def _join(p: jax.Array, b: jax.Array, c: jax.Array) -> Packed:
    """Pack `[[P, B^T], [B, C]]`, P at least as large as C."""
    k, even = p.shape[-1], p.shape[-1] == c.shape[-1]
    diagonal = jnp.sum(jnp.where(np.eye(k, dtype=bool), c, 0), axis=2) if even else None
    if not even:  # C moves one column to the right, above P's diagonal
        c = lax.pad(c, jnp.zeros((), c.dtype), [(0, 0, 0), (0, 1, 0), (1, 0, 0)])
    top = jnp.where(np.tri(k, dtype=bool), p, c)
    return Packed(jnp.concatenate([top, b], axis=1), diagonal)


_CUT = 512  # below this size three products of halves take longer than one of wholes (measured on CPU, 128 to 1024)


def packed_gram(x: jax.Array, axis: int) -> Packed:
    """Compute packed Gram matrices; sizes of 512 and more take three quarters of the multiplications of `gram`.

    Args:
      x: the stack, `[N, d1, .., dk]`.
      axis: one of the k axes, from 0.

    Examples:
      >>> dense(packed_gram(jnp.ones((1, 2, 3)), axis=0)).tolist()
      [[[3.0, 3.0], [3.0, 3.0]]]
    """
    n, d = x.shape[0], x.shape[axis + 1]
    # The Gram matrix is these rows times their transpose; XLA's CPU backend is slow in any other form.
    rows = jnp.moveaxis(x, axis + 1, 1).reshape(n, d, -1)

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        return lax.dot_general(a, b, (((2,), (2,)), ((0,), (0,))), precision=dot_precision())

    if d < _CUT:
        return packed(product(rows, rows))
    first, second = rows[:, : (d + 1) // 2], rows[:, (d + 1) // 2 :]
    return _join(product(first, first), product(second, first), product(second, second))


def packed(a: jax.Array) -> Packed:
    """Pack the lower triangle of each matrix: the inverse of `dense`.

    Args:
      a: symmetric matrices, `[N, d, d]`.

    Examples:
      >>> dense(packed(jnp.asarray([[[1.0, 2.0], [2.0, 3.0]]]))).tolist()
      [[[1.0, 2.0], [2.0, 3.0]]]
    """
    k = (a.shape[-1] + 1) // 2
    return _join(a[:, :k, :k], a[:, k:, :k], a[:, k:, k:])


def dense(a: Packed | jax.Array) -> jax.Array:
    """Return the matrices themselves, `[N, d, d]`; anything that is not `Packed` is returned as it is.

    Examples:
      >>> dense(eye_like(jax.ShapeDtypeStruct((1, 3, 3), jnp.float32)))[0].tolist()
      [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    if not isinstance(a, Packed):
        return a
    k, h = (a.shape[1] + 1) // 2, a.shape[1] // 2
    top, b = a.rectangle[:, :k], a.rectangle[:, k:]
    p = jnp.where(np.tri(k, dtype=bool), top, jnp.swapaxes(top, 1, 2))
    c = top[:, :h, k - h :]
    c = jnp.where(np.tri(h, k=-1, dtype=bool), jnp.swapaxes(c, 1, 2), c)
    if a.diagonal is not None:
        c = jnp.where(np.eye(h, dtype=bool), a.diagonal[:, None], c)
    upper = jnp.concatenate([p, jnp.swapaxes(b, 1, 2)], axis=2)
    return jnp.concatenate([upper, jnp.concatenate([b, c], axis=2)], axis=1)


def trace(a: Factor) -> jax.Array:
    """Compute the trace of each matrix, `[N]`, from a quarter of the entries if they are packed.

    Args:
      a: matrices `[N, d, d]`, dense or packed, or their diagonals `[N, d]`.

    Examples:
      >>> a = jnp.diag(jnp.asarray([1.0, 2.0, 3.0]))[None]
      >>> trace(a).item(), trace(packed(a)).item()
      (6.0, 6.0)
    """
    if not isinstance(a, Packed):
        return jnp.sum(a, axis=1) if a.ndim == 2 else jnp.trace(a, axis1=1, axis2=2)
    square = a.rectangle[:, : a.rectangle.shape[2]]
    # The diagonal of C is an array of its own, or it is above that of P.
    of_c = jnp.trace(square, 1, axis1=1, axis2=2) if a.diagonal is None else jnp.sum(a.diagonal, axis=1)
    return jnp.trace(square, axis1=1, axis2=2) + of_c


@functools.partial(jax.jit, static_argnums=0)  # outside of jit, one program in place of a dozen
def eye_like(matrices: jax.ShapeDtypeStruct, scale: jax.typing.ArrayLike = 1.0) -> Packed:
    """Return packed multiples of identity matrices for a stack `[N, d, d]`.

    Args:
      matrices: the shape and the dtype of the stack.
      scale: a number.

    Examples:
      >>> eye_like(jax.ShapeDtypeStruct((1, 2, 2), jnp.float32))._asdict()
      {'rectangle': Array([[[1.],
              [0.]]], dtype=float32), 'diagonal': Array([[1.]], dtype=float32)}
    """
    n, d, _ = matrices.shape
    one = packed(jnp.asarray(scale, matrices.dtype) * jnp.eye(d, dtype=matrices.dtype)[None])
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape[1:])), one)

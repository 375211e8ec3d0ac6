"""Symmetric matrices in half the memory: LAPACK's rectangular full packed format, for stacks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from precond.linalg.precision import dot_precision

__all__ = ["Packed", "dense", "eye_like", "packed", "packed_gram", "packed_shape"]


class Packed(NamedTuple):
    """Hold a stack of symmetric matrices, each as a rectangle that has every entry once.

    Cut A at half its size, `[[P, B^T], [B, C]]`. P and C are two triangles, which fit into one rectangle; B goes below
    them. The sum of packed matrices is the sum of their rectangles, and so is a multiple.

    Attributes:
      rectangle: `[N, d + 1, d / 2]` for even d, `[N, d, (d + 1) / 2]` for odd.

    Reference:
      Gustavson et al., Rectangular Full Packed Format for Cholesky's Algorithm, 2010.
    """

    rectangle: jax.Array

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the matrices, `(N, d, d)`."""
        n, rows, columns = self.rectangle.shape
        d = rows - 1 if rows == 2 * columns + 1 else rows
        return n, d, d

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the matrices."""
        return self.rectangle.dtype


def packed_shape(d: int) -> tuple[int, int]:
    """Return the shape of the rectangle of a matrix of size d.

    Examples:
      >>> packed_shape(4), packed_shape(5)
      ((5, 2), (5, 3))
    """
    return (d + 1, d // 2) if d % 2 == 0 else (d, (d + 1) // 2)


def _lower(rows: int, columns: int, offset: int) -> np.ndarray:
    """Return where the first triangle stands in the upper part of the rectangle."""
    return np.tri(rows, columns, -offset, dtype=bool)


def _join(p: jax.Array, b: jax.Array, c: jax.Array) -> Packed:
    """Return the rectangle of `[[P, B^T], [B, C]]`, P at least as large as C."""
    k, even = p.shape[-1], p.shape[-1] == c.shape[-1]
    zero = jnp.zeros((), p.dtype)
    if even:  # P moves one row down; C stays where it was, as its upper triangle
        p = lax.pad(p, zero, [(0, 0, 0), (1, 0, 0), (0, 0, 0)])
        c = lax.pad(c, zero, [(0, 0, 0), (0, 1, 0), (0, 0, 0)])
    else:  # P stays where it was; C moves one column to the right
        c = lax.pad(c, zero, [(0, 0, 0), (0, 1, 0), (1, 0, 0)])
    top = jnp.where(_lower(k + even, k, int(even)), p, c)
    return Packed(jnp.concatenate([top, b], axis=1))


_CUT = 512  # below this size three products of halves take longer than one of wholes (measured on CPU, 128 to 1024)


def packed_gram(x: jax.Array, axis: int) -> Packed:
    """Compute `precond.linalg.gram`, packed; for sizes of 512 and more with three quarters of the multiplications.

    Args:
      x: `[N, d1, .., dk]`.
      axis: one of the k axes, from 0.

    Examples:
      >>> dense(packed_gram(jnp.ones((1, 2, 3)), axis=0)).tolist()
      [[[3.0, 3.0], [3.0, 3.0]]]
    """
    n, d = x.shape[0], x.shape[axis + 1]
    # The Gram matrix is these rows times their transpose; XLA's CPU backend is slow at any other form.
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
      a: `[N, d, d]`, symmetric.

    Examples:
      >>> dense(packed(jnp.asarray([[[1.0, 2.0], [2.0, 3.0]]]))).tolist()
      [[[1.0, 2.0], [2.0, 3.0]]]
    """
    k = (a.shape[-1] + 1) // 2
    return _join(a[:, :k, :k], a[:, k:, :k], a[:, k:, k:])


def dense(a: Packed | jax.Array) -> jax.Array:
    """Return the matrices themselves, `[N, d, d]`; whatever is not `Packed` is returned as it is.

    Examples:
      >>> dense(eye_like(jax.ShapeDtypeStruct((1, 3, 3), jnp.float32)))[0].tolist()
      [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    if not isinstance(a, Packed):
        return a
    k, h = (a.shape[1] + 1) // 2, a.shape[1] // 2
    even = k == h
    top, b = a.rectangle[:, : k + even], a.rectangle[:, k + even :]
    p = top[:, 1:] if even else top
    c = top[:, :h] if even else top[:, :h, 1:]
    p = jnp.where(_lower(k, k, 0), p, jnp.swapaxes(p, 1, 2))
    c = jnp.where(_lower(h, h, 1), jnp.swapaxes(c, 1, 2), c)
    upper = jnp.concatenate([p, jnp.swapaxes(b, 1, 2)], axis=2)
    return jnp.concatenate([upper, jnp.concatenate([b, c], axis=2)], axis=1)


def eye_like(matrices: jax.ShapeDtypeStruct) -> Packed:
    """Return packed identity matrices for a stack `[N, d, d]`.

    Examples:
      >>> eye_like(jax.ShapeDtypeStruct((1, 1, 1), jnp.float32)).rectangle.tolist()
      [[[1.0]]]
    """
    n, d, _ = matrices.shape
    k = (d + 1) // 2
    p, c = np.eye(k)[None], np.eye(d // 2)[None]
    one = _join(jnp.asarray(p), jnp.zeros((1, d // 2, k)), jnp.asarray(c)).rectangle
    return Packed(jnp.broadcast_to(one, (n, *packed_shape(d))).astype(matrices.dtype))

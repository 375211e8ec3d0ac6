"""Multiply tensors of a stack, `[N, d1, .., dk]`, by matrices along their axes (tensor modes)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from precond.linalg.precision import dot_precision

__all__ = ["gram", "multiply", "multiply_axis"]


def gram(x: jax.Array, axis: int) -> jax.Array:
    """Compute the Gram matrix of every tensor of a stack along one axis, contracted over all the others.

    Args:
      x: the stack, `[N, d1, .., dk]`.
      axis: one of the k axes, from 0.

    Returns:
      `[N, d, d]` with d the length of that axis; for matrices `x x^T` (axis 0) and `x^T x` (axis 1).

    Examples:
      >>> gram(jnp.ones((1, 2, 3)), axis=0).tolist()
      [[[3.0, 3.0], [3.0, 3.0]]]
    """
    others = tuple(i for i in range(1, x.ndim) if i != axis + 1)
    return lax.dot_general(x, x, ((others, others), ((0,), (0,))), precision=dot_precision())


def multiply_axis(x: jax.Array, matrix: jax.Array, axis: int, *, transpose: bool = False) -> jax.Array:
    """Multiply every tensor of a stack by its matrix along one axis.

    Args:
      x: the stack, `[N, d1, .., dk]`.
      matrix: the matrices, `[N, e, d]` with d the length of that axis (`[N, d, e]` if transposed).
      axis: one of the k axes, from 0.
      transpose: whether to multiply by the transposed matrices.

    Returns:
      x with that axis of length e; for matrices `M x` (axis 0) and `x M^T` (axis 1).

    Examples:
      >>> multiply_axis(jnp.ones((1, 2, 1)), jnp.asarray([[[1.0, 2.0]]]), axis=0).tolist()
      [[[3.0]]]
    """
    contract, batch = 1 if transpose else 2, ((0,), (0,))
    if axis + 2 == x.ndim:  # the axis is in place already: the product leaves its new axis last
        numbers = (((x.ndim - 1,), (contract,)), batch)
        return lax.dot_general(x, matrix, numbers, precision=dot_precision())
    numbers = (((contract,), (axis + 1,)), batch)
    product = lax.dot_general(matrix, x, numbers, precision=dot_precision())
    return jnp.moveaxis(product, 1, axis + 1)


def multiply(x: jax.Array, matrices: Sequence[jax.Array | None], *, transpose: bool = False) -> jax.Array:
    """Multiply every tensor of a stack by one matrix for each axis; None leaves an axis as it is.

    For matrices `[N, m, n]` this is `A x B^T`, that is `(A kron B) vec(x)` with rows stacked.

    Examples:
      >>> multiply(jnp.ones((1, 1, 1)), [jnp.full((1, 1, 1), 2.0), None]).tolist()
      [[[2.0]]]
    """
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            x = multiply_axis(x, matrix, axis, transpose=transpose)
    return x

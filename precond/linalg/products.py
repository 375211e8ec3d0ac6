"""Multiply stacks of square matrices, in the precision of the context."""

import jax
import jax.numpy as jnp

from precond.linalg.precision import dot_precision

__all__ = ["matrix_power", "product", "symmetric"]


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Multiply two stacks of matrices, `A B`, in the precision of `dot_precision`.

    Examples:
      >>> product(jnp.full((1, 1, 1), 2.0), jnp.full((1, 1, 1), 3.0)).item()
      6.0
    """
    return jnp.matmul(a, b, precision=dot_precision())


def matrix_power(a: jax.Array, exponent: int) -> jax.Array:
    """Raise matrices to a positive integer power, `A^k`, by repeated squaring.

    Examples:
      >>> matrix_power(jnp.full((1, 1, 1), 2.0), 5).item()
      32.0
    """
    if exponent == 1:
        return a
    half = matrix_power(product(a, a), exponent // 2)
    return product(half, a) if exponent % 2 else half


def symmetric(a: jax.Array) -> jax.Array:
    """Return the symmetric part of matrices, `(A + A^T) / 2`.

    Examples:
      >>> symmetric(jnp.asarray([[[0.0, 2.0], [0.0, 0.0]]])).tolist()
      [[[0.0, 1.0], [1.0, 0.0]]]
    """
    return (a + jnp.swapaxes(a, -1, -2)) / 2

"""Compress each matrix to low rank, and store M-FAC's window of gradients so."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from precond.arguments import check_whole, described
from precond.linalg.lapack import orthonormal_columns
from precond.linalg.products import product
from precond.transforms.of_single_blocks import of_single_blocks
from precond.transforms.refuse_sharded import refuse_sharded
from precond.transforms.rows import Rows, dense_rows
from precond.trees import wide_dtype

__all__ = ["LowRank", "low_rank", "low_rank_rows"]


class LowRank(NamedTuple):
    """Hold two factors of a matrix in low rank, the product of the first and the transposed second.

    Attributes:
      left: the left factor, `[m, r]`, with orthonormal columns.
      right: the right factor, `[n, r]`.
    """

    left: jax.Array
    right: jax.Array


def _matrix_shape(x: jax.Array, rank: int) -> tuple[int, int] | None:
    """Return the shape in which an array is a matrix, or None where factors would save nothing."""
    m, n = math.prod(x.shape[:-1]), x.shape[-1] if x.ndim else 1
    real = not jnp.issubdtype(x.dtype, jnp.complexfloating)
    return (m, n) if x.ndim > 1 and real and rank * (m + n) < m * n else None


def _factors(g: jax.Array, rank: int) -> LowRank:
    """Factor a matrix `[m, n]` by a power iteration from a fixed random start; exact for this rank."""
    right = jax.random.normal(jax.random.key(0), (g.shape[1], rank), g.dtype)
    right = product(g.T, orthonormal_columns(product(g, right)[None])[0])
    left = orthonormal_columns(product(g, right)[None])[0]
    return LowRank(left, product(g.T, left))


@described()
def low_rank(rank: int = 4) -> optax.GradientTransformationExtraArgs:
    r"""Replace each matrix by one of low rank that is close to it, as PowerSGD does.

    $$P = \mathrm{orth}(G Q), \quad Q \leftarrow G^\top P, \quad G \approx P Q^\top$$

    from a fixed random Q, twice. All axes but the last are the rows of a matrix. Vectors stay as they are, and so does
    every matrix of m rows and n columns where $r (m + n) \geq m n$, and every complex one.

    Args:
      rank: r.

    Returns:
      A stateless transformation, for `precond.transforms.error_feedback`, which feeds back what is left out.

    Raises:
      ValueError, TypeError: for a rank below 1; in `update`, for the stacks of `precond.blocked`, unless it is in
        `precond.per_block`, and for a matrix that explicit mesh axes divide.

    Reference:
      Vogels, Karimireddy and Jaggi, PowerSGD: Practical Low-Rank Gradient Compression for Distributed Optimization,
      2019.

    Examples:
      >>> tx, g = low_rank(1), jnp.diag(jnp.asarray([3.0, 0.0, 0.0]))
      >>> tx.update(g, tx.init(g))[0].round(4).tolist()[0]
      [3.0, 0.0, 0.0]
    """
    check_whole("rank", rank, least=1)

    def one(x: jax.Array) -> jax.Array:
        shape = _matrix_shape(x, rank)
        if shape is None:
            return x
        refuse_sharded("low_rank", x)
        left, right = _factors(x.reshape(shape).astype(wide_dtype(x)), rank)
        return product(left, right.T).reshape(x.shape).astype(x.dtype)

    return of_single_blocks("low_rank", one)


@described()
def low_rank_rows(rank: int = 4) -> Rows:
    r"""Store each matrix of a gradient as two factors in low rank.

    They are P and Q of $g \approx P Q^\top$. A window of m gradients takes $m (a + b) r$ numbers for a matrix of a rows
    and b columns. Put it behind `precond.transforms.error_feedback(precond.transforms.low_rank(rank))` with the same
    rank, and storing loses only rounding. If parameters are sharded, store them inside your own `shard_map`,
    where matrices are the shards.

    Args:
      rank: as in `precond.transforms.low_rank`.

    Returns:
      A value for `rows=` of `precond.scale_by_mfac`.

    Raises:
      ValueError, TypeError: for a rank below 1.

    Reference:
      Modoranu et al., Error Feedback Can Accurately Compress Preconditioners, 2023 (LR-MFAC).

    Examples:
      >>> rows, g = low_rank_rows(1), jnp.diag(jnp.asarray([3.0, 0.0, 0.0]))
      >>> window = jax.tree.map(lambda x: x[None], rows.store(g))
      >>> [x.shape for x in window], rows.products(window, g).round(3).tolist()
      ([(1, 3, 1), (1, 3, 1)], [9.0])
    """
    check_whole("rank", rank, least=1)
    whole = dense_rows()

    def store(g: jax.Array) -> LowRank | jax.Array:
        shape = _matrix_shape(g, rank)
        return g if shape is None else _factors(refuse_sharded("low_rank_rows", g).reshape(shape), rank)

    def products(window: LowRank | jax.Array, g: jax.Array) -> jax.Array:
        if isinstance(window, jax.Array):
            return whole.products(window, g)
        matrix = g.reshape(window.left.shape[1], window.right.shape[1])
        return jnp.sum(window.left * product(matrix, window.right), axis=(1, 2))

    def combine(window: LowRank | jax.Array, weights: jax.Array, like: jax.Array) -> jax.Array:
        if isinstance(window, jax.Array):
            return whole.combine(window, weights, like)
        left = window.left * weights.astype(window.left.dtype)[:, None, None]
        sides = (jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1) for x in (left, window.right))
        first, second = sides
        return product(first, second.T).reshape(like.shape)

    return Rows(store, products, combine)

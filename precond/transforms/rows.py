"""Store the gradients of M-FAC's window: as they are, or the largest entries of each block."""

import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from precond.arguments import check_whole, described, made
from precond.linalg.align import per_row
from precond.transforms.block_top_k import BLOCK_SIZE, Entries, check_density, cut, join, largest_entries
from precond.transforms.refuse_sharded import refuse_sharded
from precond.trees import Tree

__all__ = ["Rows", "dense_rows", "sparse_rows"]


class Store(Protocol):
    """Store a gradient: the type of `Rows.store`."""

    def __call__(self, g: jax.Array) -> Tree:
        """Return the stored form of one parameter's gradient, a tree of arrays."""
        ...


class Products(Protocol):
    """Multiply stored gradients by a gradient: the type of `Rows.products`."""

    def __call__(self, window: Any, g: jax.Array) -> jax.Array:
        """Return the inner products of stored gradients and a gradient, `[m]`; complex numbers are pairs of real ones.

        Args:
          window: m stored gradients, in the form of `store` with a leading axis m.
          g: a gradient.
        """
        ...


class Combine(Protocol):
    """Combine stored gradients: the type of `Rows.combine`."""

    def __call__(self, window: Any, weights: jax.Array, like: jax.Array) -> jax.Array:
        """Return the weighted sum of stored gradients.

        Args:
          window: m stored gradients, in the form of `store` with a leading axis m.
          weights: the weights, `[m]`.
          like: an array of the parameter's shape and dtype.
        """
        ...


class Rows(NamedTuple):
    """Store the gradients of one parameter, by three pure functions.

    Attributes:
      store: a function from a gradient to its stored form (`Store`).
      products: a function from a window of stored gradients and a gradient to their inner products (`Products`).
      combine: a function from a window and weights to the weighted sum of its gradients (`Combine`).
    """

    store: Store
    products: Products
    combine: Combine

    def __repr__(self) -> str:
        """Name the function that made it."""
        return made(self)


def _weighted(rows: jax.Array, weights: jax.Array) -> jax.Array:
    real = jnp.promote_types(jnp.float32, jnp.finfo(rows.dtype).dtype)
    return rows * per_row(weights.astype(real), rows.ndim)


def _dot(rows: jax.Array, g: jax.Array) -> jax.Array:
    # It is not a matrix product: those cannot contract sharded axes of explicit meshes, and may use TF32.
    return jnp.sum(jnp.real(rows * jnp.conj(g)), tuple(range(1, rows.ndim)))


def dense_rows() -> Rows:
    """Store gradients as they are, which takes m times the memory of the parameters.

    Examples:
      >>> dense_rows().products(
      ...     jnp.asarray([[1.0, 0.0], [1.0, 1.0]]), jnp.asarray([2.0, 3.0])
      ... ).tolist()
      [2.0, 5.0]
    """
    return Rows(
        store=lambda g: g,
        products=lambda window, g: _dot(window, g[None]),
        combine=lambda window, weights, like: jnp.sum(_weighted(window, weights), axis=0),
    )


@described()
def sparse_rows(density: float = 0.01, *, block_size: int = BLOCK_SIZE) -> Rows:
    r"""Store the entries of each gradient that `precond.transforms.block_top_k` keeps, as values and places.

    An entry takes 6 bytes in float32, with blocks of at most 65536. At 1 % the window takes a 66th of the memory of
    whole gradients. Put it behind `precond.transforms.error_feedback(precond.transforms.block_top_k(density,
    block_size=block_size))` with the same two numbers, and storing loses nothing. Without it, the entries that are not
    stored are lost. A parameter is read in the order of its memory. If it is sharded, store it inside your own
    `shard_map`, where the blocks are those of the shard.

    Args:
      density: as in `precond.transforms.block_top_k`.
      block_size: as in `precond.transforms.block_top_k`.

    Returns:
      A value for `rows=` of `precond.scale_by_mfac`.

    Raises:
      ValueError, TypeError: as `precond.transforms.block_top_k`.

    Reference:
      Modoranu et al., Error Feedback Can Accurately Compress Preconditioners, 2023 (Sparse-MFAC).

    Examples:
      >>> rows = sparse_rows(0.5)
      >>> kept = rows.store(jnp.asarray([1.0, -2.0, 4.0, 3.0]))
      >>> kept[0].values.tolist(), kept[0].places.tolist()
      ([[4.0, 3.0]], [[2, 3]])
    """
    check_density(density)
    check_whole("block_size", block_size, least=1)

    def store(g: jax.Array) -> list[Entries]:
        return [largest_entries(part, density) for part in cut(refuse_sharded("sparse_rows", g), block_size)]

    def products(window: list[Entries], g: jax.Array) -> jax.Array:
        found = [
            _dot(rows.values, jnp.take_along_axis(part[None], rows.places.astype(jnp.int32), 2))
            for rows, part in zip(window, cut(g, block_size), strict=True)
        ]
        return functools.reduce(jnp.add, found, jnp.zeros([]))

    def combine(window: list[Entries], weights: jax.Array, like: jax.Array) -> jax.Array:
        def one(rows: Entries, part: jax.Array) -> jax.Array:
            block = jnp.arange(part.shape[0])[None, :, None]
            return jnp.zeros_like(part).at[block, rows.places.astype(jnp.int32)].add(_weighted(rows.values, weights))

        return join([one(*pair) for pair in zip(window, cut(like, block_size), strict=True)], like)

    return Rows(store, products, combine)

"""Compute SOAP's bases: by `eigh` the first time, then by steps of orthogonal iteration from the basis before."""

import jax
import jax.numpy as jnp
from jax import lax

from precond.linalg.lapack import eigh, orthonormal_columns
from precond.linalg.products import product
from precond.linalg.rounding_floor import rounding_floor
from precond.linalg.take_columns import take_columns

__all__ = ["first_basis", "moved_columns", "orthonormal_in_place", "qr_basis", "scaled_eigenvectors"]


def orthonormal_in_place(products: jax.Array, quotients: jax.Array, basis: jax.Array) -> jax.Array:
    """Make the columns of `A V` orthonormal in the order of falling quotients, and leave each in its place.

    A column is only rounding error if its quotient is as small as rounding, or if it depends linearly on the columns
    before it. It is then replaced by the column of the old basis, made orthogonal to the others. Otherwise rounding
    would choose the direction, and every program would choose another one.

    Args:
      products: the products of A and some unit vectors, `[M, n, n]`.
      quotients: the Rayleigh quotients of these vectors, `[M, n]`.
      basis: the old basis, `[M, n, n]`.

    Returns:
      `[M, n, n]`, orthonormal columns.

    Examples:
      >>> products, quotients = (
      ...     jnp.asarray([[[1.0, 3.0], [0.0, 0.0]]]),
      ...     jnp.asarray([[1.0, 3.0]]),
      ... )
      >>> # Both products point along the first axis. The larger one is taken, and the other column stays.
      >>> jnp.abs(orthonormal_in_place(products, quotients, jnp.eye(2)[None])[0]).tolist()
      [[0.0, 1.0], [1.0, 0.0]]
    """
    least = rounding_floor(products.dtype) * jnp.max(quotients, axis=1, keepdims=True)
    seen = quotients > jnp.maximum(least, 0)
    order = jnp.argsort(-jnp.where(seen, quotients, 0), axis=1)
    before, seen = take_columns(basis, order), take_columns(seen[:, None, :], order)[:, 0]
    given = jnp.where(seen[:, None, :], take_columns(products, order), before)
    found = orthonormal_columns(given)
    lost = seen & (jnp.abs(jnp.sum(found * given, axis=1)) <= least)  # the diagonal of the triangular factor

    def with_those_before() -> jax.Array:
        with jax.named_scope("precond.first"):  # as long as few gradients have been seen
            last = jnp.argsort(lost, axis=1)
            again = orthonormal_columns(take_columns(jnp.where(lost[:, None, :], before, found), last))
            return take_columns(again, jnp.argsort(last, axis=1))

    found = lax.cond(jnp.any(lost), with_those_before, lambda: found)
    return take_columns(found, jnp.argsort(order, axis=1))


def scaled_eigenvectors(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the products of A and its eigenvectors, by ascending eigenvalue, and the eigenvalues.

    Args:
      a: symmetric matrices, `[M, n, n]`.

    Returns:
      `[M, n, n]` and `[M, n]`: the first two arguments of `orthonormal_in_place`.

    Examples:
      >>> scaled_eigenvectors(jnp.full((1, 1, 1), 4.0))[1].tolist()
      [[4.0]]
    """
    values, vectors = eigh(a)
    return vectors * values[:, None, :], values


def moved_columns(a: jax.Array, basis: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the products of A and the columns of a basis, and the Rayleigh quotients of these columns.

    Args:
      a: symmetric matrices, `[M, n, n]`.
      basis: the bases, `[M, n, n]`, in orthonormal columns.

    Returns:
      `[M, n, n]` and `[M, n]`: the first two arguments of `orthonormal_in_place`.

    Examples:
      >>> [x.item() for x in moved_columns(jnp.full((1, 1, 1), 4.0), -jnp.ones((1, 1, 1)))]
      [-4.0, 4.0]
    """
    products = product(a, basis)
    return products, jnp.sum(basis * products, axis=1)


def first_basis(a: jax.Array, basis: jax.Array) -> jax.Array:
    """Return the eigenvectors of A by ascending eigenvalue; a basis completes them if A has not full rank.

    Args:
      a: symmetric positive semi-definite matrices, `[M, n, n]`.
      basis: the bases, `[M, n, n]`, in orthonormal columns.

    Returns:
      `[M, n, n]`, orthonormal columns.

    Examples:
      >>> jnp.abs(first_basis(jnp.diag(jnp.asarray([2.0, 1.0]))[None], jnp.eye(2)[None]))[
      ...     0
      ... ].tolist()
      [[0.0, 1.0], [1.0, 0.0]]
    """
    products, values = scaled_eigenvectors(a)
    return orthonormal_in_place(products, values, basis)


def qr_basis(a: jax.Array, basis: jax.Array) -> jax.Array:
    """Move an orthonormal basis towards the eigenvectors of A by a QR decomposition of `A Q`.

    The columns are taken in the order of falling Rayleigh quotients, which makes the iteration converge to eigenvectors
    one by one. Each is then **put back in its place**, so that a second moment that is stored in this basis stays valid
    as it is. The official SOAP sorts the columns and permutes the second moment with them, which is the same trajectory
    with other labels. A column whose quotient is as small as rounding stays, and is made orthogonal to the others.

    Args:
      a: symmetric positive semi-definite matrices, `[M, n, n]`.
      basis: the bases, `[M, n, n]`, in orthonormal columns.

    Returns:
      `[M, n, n]`, orthonormal columns; column j continues column j.

    Reference:
      Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam, 2024, Algorithm 4.

    Examples:
      >>> jnp.abs(qr_basis(jnp.diag(jnp.asarray([1.0, 2.0]))[None], jnp.eye(2)[None]))[
      ...     0
      ... ].tolist()
      [[1.0, 0.0], [0.0, 1.0]]
    """
    products, quotients = moved_columns(a, basis)
    return orthonormal_in_place(products, quotients, basis)

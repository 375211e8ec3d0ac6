"""One step of orthogonal iteration on a known basis, the refresh that SOAP does in place of `eigh`."""

import jax
import jax.numpy as jnp

from precond.linalg.lapack import orthonormal_columns
from precond.linalg.precision import dot_precision

__all__ = ["qr_basis"]


def qr_basis(a: jax.Array, basis: jax.Array) -> jax.Array:
    """Move an orthonormal basis towards the eigenvectors of A by a QR decomposition of `A Q`.

    The columns are taken in the order of falling Rayleigh quotients, which makes the iteration converge to eigenvectors
    one by one. They are **put back where they were**, so that a second moment that is stored in this basis stays valid
    as it is. The official SOAP sorts the columns and permutes the second moment with them, which is the same trajectory
    with other labels.

    Args:
      a: `[M, n, n]`, symmetric positive semi-definite.
      basis: `[M, n, n]`, orthonormal columns.

    Returns:
      `[M, n, n]`, orthonormal columns; column j continues column j.

    Reference:
      Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam, 2024, Algorithm 4.

    Examples:
      >>> jnp.abs(qr_basis(jnp.diag(jnp.asarray([1.0, 2.0]))[None], jnp.eye(2)[None]))[0].tolist()
      [[1.0, 0.0], [0.0, 1.0]]
    """
    product = jnp.matmul(a, basis, precision=dot_precision())
    order = jnp.argsort(-jnp.sum(basis * product, axis=1), axis=-1)[:, None, :]
    orthonormal = orthonormal_columns(jnp.take_along_axis(product, order, axis=2))
    back = jnp.argsort(order, axis=2)
    return jnp.take_along_axis(orthonormal, back, axis=2)

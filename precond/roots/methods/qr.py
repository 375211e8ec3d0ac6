"""Refresh a basis as SOAP does, by one QR decomposition."""

import jax
import jax.numpy as jnp

from precond.arguments import described
from precond.control_flow import run_if
from precond.linalg import dot_precision, orthonormal_in_place
from precond.linalg.lapack import eigh
from precond.roots.methods.method import Method
from precond.scopes import named

__all__ = ["qr"]


@described()
def qr() -> Method:
    """Refresh bases as SOAP does: `eigh` the first time, then one QR decomposition of `A Q`; for bases only.

    Examples:
      >>> from precond import eigenbasis
      >>> root = eigenbasis(method=qr())
    """
    return Method("qr()", None, _refreshed)


def _refreshed(a: jax.Array, old: jax.Array, first: jax.Array) -> jax.Array:
    """Return `precond.linalg.first_basis` where it is the first time, and `precond.linalg.qr_basis` elsewhere.

    Both end with the same decomposition, which is compiled once.
    """
    if a.shape[-1] == 1:
        return jnp.ones_like(a)
    products = jnp.matmul(a, old, precision=dot_precision())
    quotients = jnp.sum(old * products, axis=1)

    def of_eigenvectors() -> tuple[jax.Array, jax.Array]:
        with named("first"):
            values, vectors = eigh(a)
            row = jnp.broadcast_to(first, a.shape[:1])[:, None]
            rows = row[:, :, None]
            return jnp.where(rows, vectors * values[:, None, :], products), jnp.where(row, values, quotients)

    columns, sizes = run_if(jnp.any(first), of_eigenvectors, lambda: (products, quotients))
    return orthonormal_in_place(columns, sizes, old)

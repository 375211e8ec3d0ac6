"""Refresh a basis as SOAP does, by one QR decomposition."""

import jax
import jax.numpy as jnp

from precond.arguments import described
from precond.control_flow import run_if
from precond.linalg import moved_columns, orthonormal_in_place, scaled_eigenvectors
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
    return Method("qr()", None, _refreshed, keeps_zeros=True)


def _refreshed(a: jax.Array, old: jax.Array, first: jax.Array) -> jax.Array:
    """Return `precond.linalg.first_basis` where it is the first time, and `precond.linalg.qr_basis` elsewhere.

    Both end with the same decomposition, which is compiled once.
    """
    if a.shape[-1] == 1:
        return jnp.ones_like(a)
    moved = moved_columns(a, old)

    def of_eigenvectors() -> tuple[jax.Array, jax.Array]:
        with named("first"):
            products, values = scaled_eigenvectors(a)
            begins = jnp.broadcast_to(first, a.shape[:1])[:, None]
            return jnp.where(begins[:, :, None], products, moved[0]), jnp.where(begins, values, moved[1])

    products, quotients = run_if(jnp.any(first), of_eigenvectors, lambda: moved)
    return orthonormal_in_place(products, quotients, old)

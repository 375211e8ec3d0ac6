"""Invert factors by the Cholesky decomposition."""

import jax
import jax.numpy as jnp

from precond.arguments import described
from precond.linalg import positive_inverse
from precond.roots.methods.method import Method, Ridge, RootResult
from precond.roots.root import Power

__all__ = ["cholesky"]


@described()
def cholesky() -> Method:
    """Invert by the Cholesky decomposition, for inverses alone (`power=1`), at a fraction of the cost of `eigh`.

    A TPU inverts matrices of more than 128 rows by sweeps (`precond.linalg.swept_inverse`). If rounding keeps a matrix
    from being positive definite, it has no inverse here, and its damping is raised. The largest row sum takes the place
    of the largest eigenvalue, on which `precond.relative` damping depends. This is never too small, and at most
    `sqrt(n)` times too large for a matrix of n rows.

    Examples:
      >>> from precond import inverse
      >>> root = inverse(method=cholesky())
    """

    def root(a: jax.Array, power: Power, ridge: Ridge, least: float) -> RootResult:
        del least
        if power != 1:
            raise ValueError(f"method=cholesky() computes inverses, not the power of -{power}: use precond.eigh().")
        largest = _row_sum(a)
        damping = ridge(largest)
        eye = jnp.eye(a.shape[-1], dtype=a.dtype)
        damped = a + damping[:, None, None] * eye
        out = positive_inverse(damped)
        return RootResult(out, largest, damping, _row_sum(out) * (largest + damping))

    return Method("cholesky()", root, None)


def _row_sum(a: jax.Array) -> jax.Array:
    """Return the largest row sum of each symmetric matrix, `[M]`, which is at least its largest eigenvalue."""
    # Sums of columns are the same, and a TPU adds rows faster than it adds along them.
    return jnp.max(jnp.sum(jnp.abs(a), axis=1), axis=1)

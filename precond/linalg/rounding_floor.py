"""Say below which size eigenvalues are only rounding error."""

import jax
import jax.numpy as jnp

__all__ = ["rounding_floor"]


def rounding_floor(dtype: jax.typing.DTypeLike) -> float:
    """Return the size, relative to the largest eigenvalue, below which eigenvalues are only rounding error.

    It is 64 units of rounding (8e-6 in float32). With it in every eigenvalue, the basis that `eigh` computes has a
    `scaled_off_diagonal` below 0.1, so that no better basis can be asked for.

    Args:
      dtype: the floating-point type of the matrices.

    Examples:
      >>> rounding_floor(jnp.float32)
      7.62939453125e-06
    """
    return 64 * float(jnp.finfo(dtype).eps)

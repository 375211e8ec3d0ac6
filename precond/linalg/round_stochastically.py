"""Round to bfloat16 stochastically, up or down by chance."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["round_stochastically"]


@jax.custom_jvp
def round_stochastically(x: jax.Array, noise: jax.Array) -> jax.Array:
    """Round to one of the two neighbours in bfloat16, so that the mean over the noise is the number itself.

    Noise is added to the lower half of a float32, and cut off; the upper half is a bfloat16. The derivative is that of
    the number itself, as if it were not rounded.

    Args:
      x: an array; wider types than float32 are rounded to float32 first.
      noise: uniform numbers of 16 bits, of the same shape.

    Examples:
      >>> # A quarter of the noise rounds to the upper neighbour, 1 + 1 / 128.
      >>> x = jnp.full((2,), 1 + 1 / 512)
      >>> round_stochastically(
      ...     x, jnp.asarray([3 * 2**14 - 1, 3 * 2**14], jnp.uint16)
      ... ).tolist()
      [1.0, 1.0078125]
    """
    x = x.astype(jnp.float32)
    bits = lax.bitcast_convert_type(x, jnp.uint32) + noise
    cut = lax.bitcast_convert_type(bits & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(x), cut, x).astype(jnp.bfloat16)


@round_stochastically.defjvp
def _straight_through(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[jax.Array, jax.Array]:
    return round_stochastically(*primals), tangents[0].astype(jnp.bfloat16)

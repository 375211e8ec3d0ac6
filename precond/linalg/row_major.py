"""Fix the order in which an array is kept in memory."""

import jax
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

__all__ = ["row_major"]


def row_major(x: jax.Array) -> jax.Array:
    """Tell the compiler to keep an array in the order of its axes, the last one fastest.

    A compiler for TPUs chooses the order by the operations that make or use an array, such as a product. It may give
    this order to a whole stack. Then each step copies the stack into this order and back. Elsewhere this function does
    nothing.

    Examples:
      >>> import jax.numpy as jnp
      >>> row_major(jnp.ones((1, 2, 3))).shape
      (1, 2, 3)
    """
    if x.ndim < 3:
        return x
    order = Layout(tuple(range(x.ndim)))
    return lax.platform_dependent(x, tpu=lambda x: with_layout_constraint(x, order), default=lambda x: x)

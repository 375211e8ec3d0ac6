"""Numbers that the compiler does not know, so that it compiles what depends on them once."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["hidden_constants"]


def hidden_constants(numbers: Sequence[int]) -> list[jax.Array]:
    """Whole numbers as scalars, whose values XLA's CPU compiler does not know.

    It makes machine code for every kernel that is not the same as one before to the last constant. Slices of an array
    at a hundred places are a hundred kernels, at 10 to 15 ms each, and one if the place is an argument. So the numbers
    come out of a loop, which is not looked through (an `optimization_barrier` is). Elsewhere they are constants.

    Args:
      numbers: from 0 to 2^32 - 1.

    Examples:
      >>> [x.item() for x in hidden_constants([3, 5])]
      [3, 5]
    """
    if not numbers:
        return []

    def known() -> list[jax.Array]:
        return [jnp.uint32(x) for x in numbers]

    def turned(_: jax.Array, given: list[jax.Array]) -> list[jax.Array]:
        return [lax.shift_left(x, jnp.uint32(16)) | lax.shift_right_logical(x, jnp.uint32(16)) for x in given]

    # Half a turn of the bits, twice. (Counters would be seen through.)
    return lax.platform_dependent(cpu=lambda: lax.fori_loop(0, 2, turned, known()), default=known)

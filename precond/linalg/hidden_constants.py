"""Hide the values of numbers from the compiler, so that it compiles one kernel for all of them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

__all__ = ["hidden_constants"]


def hidden_constants(numbers: Sequence[int]) -> list[jax.Array]:
    """Make scalars of whole numbers, whose values XLA's CPU compiler does not know.

    The compiler makes machine code for every kernel that differs from the others, even if by one constant only. Slices
    of an array at a hundred places are a hundred kernels, at 10 to 15 ms each; if the place is an argument, they are
    one. So the numbers are results of a loop, which hides them from the compiler (an `optimization_barrier` does not).
    On other devices they are constants.

    Args:
      numbers: whole numbers from 0 to 2^32 - 1.

    Examples:
      >>> [x.item() for x in hidden_constants([3, 5])]
      [3, 5]
    """
    if not numbers:
        return []

    def known() -> list[jax.Array]:
        return [jnp.uint32(x) for x in numbers]

    half = np.uint32(16)

    def swapped(_: jax.Array, given: list[jax.Array]) -> list[jax.Array]:
        return [lax.bitwise_or(lax.shift_left(x, half), lax.shift_right_logical(x, half)) for x in given]

    # The two halves of the bits are swapped twice. (The compiler would compute a loop that only counts.)
    return lax.platform_dependent(cpu=lambda: lax.fori_loop(0, 2, swapped, known()), default=known)

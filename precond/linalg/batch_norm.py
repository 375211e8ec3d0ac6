"""Compute the norm of each block of a stack."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from precond.linalg.divide import divide_or_zero

__all__ = ["batch_norm"]


def _added(x: Sequence[jax.Array], y: Sequence[jax.Array]) -> list[jax.Array]:
    # A function that lives as long as the module: outside of jit, JAX compiles a sum by a new function once more.
    return [a + b for a, b in zip(x, y, strict=True)]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def batch_norm(x: jax.Array, batch_axes: int = 0) -> jax.Array:
    """Compute the Euclidean norm over all axes but the first `batch_axes`; the other axes get length 1.

    No square overflows or underflows: there are three sums of squares, of the entries as they are, of the entries made
    larger and of the entries made smaller. The sum that is in range is taken. All three take one pass over the array.
    Dividing by the largest entry would take two passes, and keep the array in between. The derivative at zeros is 0.

    Reference:
      Blue, A Portable Fortran Program to Find the Euclidean Norm of a Vector, 1978.

    Examples:
      >>> batch_norm(jnp.asarray([[3.0, 4.0], [0.0, 1e-30]]), batch_axes=1).tolist()
      [[5.0], [1.0000000031710769e-30]]
    """
    axes = tuple(range(batch_axes, x.ndim))
    sizes = jnp.abs(x)
    if math.prod(x.shape[batch_axes:]) == 1:
        # A compiler drops a sum of one number. It may then multiply the squares of the two factors, which overflow.
        return sizes
    half = int(jnp.finfo(sizes.dtype).maxexp) // 2
    small, large = 2.0**-half, 2.0**half
    squares = [jnp.square(sizes * f) for f in (1.0, large, small)]
    zeros = [jnp.zeros((), sizes.dtype)] * 3
    sums = lax.reduce(squares, zeros, _added, axes)
    plain, enlarged, reduced = (jnp.expand_dims(x, axes) for x in sums)
    tiny, huge = plain < small, ~(plain < large)
    total = jnp.where(tiny, enlarged, jnp.where(huge, reduced, plain))
    unit = jnp.where(tiny, small, jnp.where(huge, large, 1)).astype(total.dtype)
    return unit * jnp.sqrt(total)


@batch_norm.defjvp
def _derivative(batch_axes: int, at: tuple[jax.Array], along: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (moved,) = at, along
    norm = batch_norm(x, batch_axes)
    direction = divide_or_zero(x, norm)
    change = jnp.sum(jnp.real(jnp.conj(direction) * moved), tuple(range(batch_axes, x.ndim)), keepdims=True)
    return norm, change

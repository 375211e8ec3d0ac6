"""Compress each parameter: keep the largest entries of each of its blocks."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_number, check_whole, described
from precond.transforms.of_single_blocks import of_single_blocks
from precond.transforms.refuse_sharded import refuse_sharded

__all__ = ["BLOCK_SIZE", "Entries", "block_top_k", "check_density", "cut", "join", "largest_entries"]

BLOCK_SIZE = 32768


class Entries(NamedTuple):
    """Hold the entries that stay of one part of a parameter.

    Attributes:
      values: the entries, `[blocks, k]`, in each block the largest first.
      places: the place of each value in its block, `[blocks, k]`; integers as short as the blocks allow.
    """

    values: jax.Array
    places: jax.Array


def check_density(density: Any) -> None:
    """Raise unless the density is a Python number above 0 and at most 1.

    Examples:
      >>> check_density(0)
      Traceback (most recent call last):
      ValueError: density=0: must be above 0, or no entry ever stays.
    """
    if isinstance(density, jax.Array):
        raise TypeError("density is an array, but sets shapes, and must be a Python number.")
    check_number("density", density, 0, 1)
    if density == 0:
        raise ValueError("density=0: must be above 0, or no entry ever stays.")


def cut(x: ArrayLike, block_size: int) -> list[jax.Array]:
    """Cut a parameter into parts `[blocks, size]`: its whole blocks, and the shorter last one, if there are any.

    Examples:
      >>> [part.shape for part in cut(jnp.ones((3, 3)), 4)]
      [(2, 4), (1, 1)]
    """
    flat = jnp.asarray(x).reshape(-1)
    whole = flat.size // block_size * block_size
    return [part for part in (flat[:whole].reshape(-1, block_size), flat[whole:][None]) if part.size]


def join(parts: Sequence[jax.Array], like: ArrayLike) -> jax.Array:
    """Put the parts of a parameter together: the inverse of `cut`.

    Examples:
      >>> join(cut(jnp.arange(3.0), 2), jnp.zeros(3)).tolist()
      [0.0, 1.0, 2.0]
    """
    like = jnp.asarray(like)
    return jnp.concatenate([part.reshape(-1) for part in parts]).reshape(like.shape) if parts else like


def largest_entries(part: jax.Array, density: float) -> Entries:
    """Return the entries of the largest magnitude of each row; of equal entries the first.

    Examples:
      >>> largest_entries(jnp.asarray([[1.0, -2.0, 4.0, 3.0]]), 0.5).places.tolist()
      [[2, 3]]
    """
    size = part.shape[1]
    _, places = jax.lax.top_k(jnp.abs(part), math.ceil(density * size))
    return Entries(jnp.take_along_axis(part, places, 1), places.astype(jnp.uint16 if size <= 2**16 else jnp.uint32))


@described()
def block_top_k(density: float = 0.01, *, block_size: int = BLOCK_SIZE) -> optax.GradientTransformationExtraArgs:
    r"""Keep the entries of each block of each parameter that are largest in magnitude, and zero the others.

    A parameter is read in the order of its memory and cut into blocks of `block_size`. Of each block
    $\lceil \text{density} \times \text{size} \rceil$ entries stay, a number that is known when the program is compiled.

    Args:
      density: the part of the entries that stays. The paper keeps 1 %.
      block_size: the number of entries in a block; the last block of a parameter may be shorter. The default is ours.

    Returns:
      A stateless transformation, for `precond.transforms.error_feedback`. Of equal entries the first stays.

    Raises:
      ValueError, TypeError: for a density that is not above 0 and at most 1, or a block size below 1; in
        `update`, for the stacks of `precond.blocked`, unless it is in `precond.per_block`, and for a parameter that
        explicit mesh axes divide.

    Reference:
      Modoranu et al., Error Feedback Can Accurately Compress Preconditioners, 2023.

    Examples:
      >>> tx, g = block_top_k(0.5, block_size=2), jnp.asarray([[1.0, -2.0], [4.0, 3.0]])
      >>> tx.update(g, tx.init(g))[0].tolist()
      [[0.0, -2.0], [4.0, 0.0]]
    """
    check_density(density)
    check_whole("block_size", block_size, least=1)

    def largest(part: jax.Array) -> jax.Array:
        kept = largest_entries(part, density)
        return jnp.put_along_axis(jnp.zeros_like(part), kept.places.astype(jnp.int32), kept.values, 1, inplace=False)

    def one(x: jax.Array) -> jax.Array:
        return join([largest(part) for part in cut(refuse_sharded("block_top_k", x), block_size)], x)

    return of_single_blocks("block_top_k", one)

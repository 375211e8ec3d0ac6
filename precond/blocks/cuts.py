"""Cut axes and tensors into blocks, and join the blocks again."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from precond.arguments import check_whole, described

__all__ = ["BlockSize", "Cut", "Ragged", "Region", "cut_blocks", "cuts_of", "paste_blocks", "ragged"]


class Cut(NamedTuple):
    """Describe a stretch of one axis that is cut into `count` pieces of `size`.

    An axis is a stretch of equal pieces, and sometimes a second stretch, which is one shorter piece.
    """

    start: int
    count: int
    size: int


Region = tuple[Cut, ...]
"""One cut for every axis of a tensor: a grid of equal blocks."""


class Ragged(NamedTuple):
    """Hold a block size that leaves a shorter rest; `precond.ragged` makes it, and documents its field."""

    size: int


BlockSize = int | Ragged | None
"""The way in which axes are cut: the longest side of a block, a `Ragged`, or None, which cuts nothing."""


@described()
def ragged(size: int) -> Ragged:
    """Cut axes into blocks of one size and a shorter rest, as the reference implementations of Shampoo do.

    Args:
      size: the size of the blocks: an axis of 2304 is cut at 1024 into 1024, 1024 and 256.

    Returns:
      A value for `block_size=`. A plain number cuts into equal pieces instead: 2304 at 1024 is three times 768.

    Raises:
      ValueError, TypeError: for anything but a positive integer.

    Examples:
      >>> (
      ...     [cut.size for cut in cuts_of(2304, ragged(1024))],
      ...     [cut.size for cut in cuts_of(2304, 1024)],
      ... )
      ([1024, 256], [768])
    """
    check_whole("size", size, least=1)
    return Ragged(size)


# A TPU keeps the rows of an array in tiles of 8, and would pad other sizes. So pieces of unequal size are multiples of
# it, except the last.
_TILE = 8


def cuts_of(length: int, block_size: BlockSize) -> tuple[Cut, ...]:
    """Return how an axis is cut.

    Args:
      length: the length of the axis.
      block_size: the block size, as in `precond.blocked`.

    Examples:
      >>> cuts_of(6, None), cuts_of(20, 8)
      ((Cut(start=0, count=1, size=6),), (Cut(start=0, count=2, size=8), Cut(start=16, count=1, size=4)))
    """
    longest = block_size.size if isinstance(block_size, Ragged) else block_size
    if longest is None or length <= longest:
        return (Cut(0, 1, length),)
    size = longest = int(longest)  # cuts are compared as text, and NumPy writes its numbers in another way
    if not isinstance(block_size, Ragged):
        pieces = -(-length // longest)
        even = -(-length // pieces)
        size = even if length % pieces == 0 else min(longest, -(-even // _TILE) * _TILE)
    whole, rest = divmod(length, size)
    cuts = (Cut(0, whole, size), Cut(whole * size, 1, rest))
    return cuts if rest else cuts[:1]


def cut_blocks(tensors: jax.Array, region: Region) -> jax.Array:
    """Cut the blocks of a region, `[B, D1, .., Dk] -> [B count1 .. countk, size1, .., sizek]`.

    Args:
      tensors: the tensors, `[B, D1, .., Dk]`.
      region: a region of the tensors.

    Examples:
      >>> cut_blocks(jnp.arange(4).reshape(1, 4), (Cut(0, 2, 2),)).tolist()
      [[0, 1], [2, 3]]
    """
    for axis, cut in enumerate(region, start=1):
        stop = cut.start + cut.count * cut.size
        if (cut.start, stop) != (0, tensors.shape[axis]):
            tensors = jax.lax.slice_in_dim(tensors, cut.start, stop, axis=axis)
    # One transposition moves all axes. Slices take a TPU as long, and twice as long to compile
    # (benchmarks/results/moving.json).
    grid = [d for cut in region for d in (cut.count, cut.size)]
    k = len(region)
    order = [0, *range(1, 2 * k, 2), *range(2, 2 * k + 1, 2)]
    blocks = tensors.reshape(tensors.shape[0], *grid).transpose(order)
    return blocks.reshape(-1, *(cut.size for cut in region))


def paste_blocks(blocks: jax.Array, region: Region) -> jax.Array:
    """Join the blocks of a region: the inverse of `cut_blocks`.

    Args:
      blocks: the blocks of one region.
      region: the region from which they were cut.

    Examples:
      >>> paste_blocks(jnp.asarray([[0, 1], [2, 3]]), (Cut(0, 2, 2),)).tolist()
      [[0, 1, 2, 3]]
    """
    if all(cut.count == 1 for cut in region[1:]):
        return blocks.reshape(-1, region[0].count * region[0].size, *blocks.shape[2:])
    # On a TPU slices take an eighth less time than a transposition (benchmarks/results/moving.json). For a CPU each
    # slice is a kernel of its own, which is compiled with all that computes the blocks.
    by_slices, at_once = functools.partial(_joined, region), functools.partial(_transposed, region)
    return jax.lax.platform_dependent(blocks, cpu=at_once, default=by_slices)


def _transposed(region: Region, blocks: jax.Array) -> jax.Array:
    """Join blocks by one transposition."""
    counts, k = [cut.count for cut in region], len(region)
    order = [0, *(axis for i in range(k) for axis in (1 + i, 1 + k + i))]
    grid = blocks.reshape(-1, *counts, *blocks.shape[1:]).transpose(order)
    return grid.reshape(-1, *(cut.count * cut.size for cut in region))


def _joined(region: Region, blocks: jax.Array) -> jax.Array:
    """Join blocks along one axis after the other, by slices."""
    for axis, cut in reversed(list(enumerate(region[1:], start=2))):
        if cut.count > 1:
            pieces = jnp.split(blocks.reshape(-1, cut.count, *blocks.shape[1:]), cut.count, axis=1)
            blocks = jnp.concatenate([piece[:, 0] for piece in pieces], axis)
    return blocks.reshape(-1, region[0].count * region[0].size, *blocks.shape[2:])

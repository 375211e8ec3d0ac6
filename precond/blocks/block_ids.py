"""Number the blocks of a stack by parameter, so that a state can be matched without its layout."""

import hashlib
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from precond.blocks.cuts import Region
from precond.blocks.layout import Layout
from precond.blocks.tensor_group import Member

__all__ = ["STARTS", "block_ids_of", "fingerprint", "hashed", "reading_of"]

STARTS = 3
"""The column of block ids at which the start of the block begins; columns 0 to 2 are path, reading and number."""

_MOST = 2**31  # the numbers of an int32 are below it
# Rows that NumPy computes while a program is traced are constants of the program, of 20 bytes each for matrices. More
# rows than these are computed by the program itself.
_LARGE = 2**20


class _Run(NamedTuple):
    """Describe consecutive blocks of one parameter in one stack."""

    path: str
    row: str | None
    reading: int
    region: Region
    blocks: int


def hashed(text: str) -> int:
    """Hash a text to an int32 that is not 0.

    Args:
      text: a text.

    Examples:
      >>> (
      ...     hashed("dense/kernel") == hashed("dense/kernel"),
      ...     hashed("dense/kernel") == hashed("dense/bias"),
      ... )
      (True, False)
    """
    (number,) = np.frombuffer(hashlib.sha256(text.encode()).digest()[:4], np.int32)
    return int(number) or 1


def reading_of(member: Member) -> int:
    """Hash how a parameter is read, before it is cut.

    Args:
      member: the member of a group.

    Examples:
      >>> from precond.blocks.view import Geometry
      >>> a, b = (
      ...     Member(0, Geometry((4, 6), order, (4, 6), ())) for order in [(0, 1), (1, 0)]
      ... )
      >>> reading_of(a) == reading_of(b)
      False
    """
    read = [*(tuple(map(int, x)) for x in member.geometry), member.row is not None]
    return hashed(repr(read if member.row_geometry is None else [*read, *member.row_geometry.order]))


def _runs(layout: Layout) -> dict[str, list[_Run]]:
    found: dict[str, list[_Run]] = {name: [] for name in layout.stacks}
    for group in layout.groups:
        for name, region in group.regions:
            grid = math.prod(cut.count for cut in region)
            for m in group.members:
                row = None if m.row is None else layout.paths[m.row]
                found[name].append(_Run(layout.paths[m.leaf], row, reading_of(m), region, m.batch * grid))
    return found


def fingerprint(layout: Layout) -> int:
    """Hash everything that the order and the meaning of blocks depend on, and the paths of parameters without blocks.

    For blocks these are paths, readings, cuts and order. Dtypes and the rows that pad a stack have no effect, so that
    the hash does not depend on the number of devices.

    Args:
      layout: the layout of a tree.

    Examples:
      >>> from precond.blocks.layout import layout_of
      >>> from precond.blocks.views import default_views
      >>> a, b = ({name: jnp.zeros((4, 6))} for name in "ab")
      >>> fingerprint(layout_of(a, default_views, 8)) == fingerprint(
      ...     layout_of(b, default_views, 8)
      ... )
      False
    """
    others = [path for path, viewed in zip(layout.paths, layout.viewed, strict=True) if not viewed]
    return hashed(repr((sorted(_runs(layout).items()), others)))


def block_ids_of(layout: Layout) -> dict[str, Any]:
    """Return the parameter of each block of every stack, as an array `[N, 3 + k]` of int32 for blocks of k axes.

    A row has four parts. The first two are hashes, of the parameter's path and of how the parameter is read. The third
    is the number of the block among the blocks of its parameter in this stack. The last is the place on each axis of
    its tensor at which the block begins. Rows that pad a stack are 0.

    Args:
      layout: the layout of a tree.

    Raises:
      ValueError: for so many blocks, or such long axes, that 32 bits cannot count them.

    Examples:
      >>> from precond.blocks.layout import layout_of
      >>> from precond.blocks.views import default_views
      >>> rows = block_ids_of(
      ...     layout_of({"kernel": jnp.zeros((16, 8))}, default_views, 8, multiple=3)
      ... )["8x8"]
      >>> rows[:, 2:].tolist(), rows[:, 0].tolist() == [hashed("kernel"), hashed("kernel"), 0]
      ([[0, 0, 0], [1, 8, 0], [0, 0, 0]], True)
    """
    runs = _runs(layout)
    return {name: _rows(runs[name], stack.shape[0]) for name, stack in layout.stacks.items()}


def _rows(runs: list[_Run], length: int) -> Any:
    if length >= _MOST or any(cut.start + cut.count * cut.size > _MOST for run in runs for cut in run.region):
        longest = max(runs, key=lambda run: run.blocks)
        raise ValueError(
            f"'{longest.path}' has an axis, or a stack has blocks, that cannot be counted in 32 bits: give a larger "
            f"block_size=, or None as the view of this parameter."
        )
    xp: Any = np if length <= _LARGE else jnp
    ends = np.cumsum([run.blocks for run in runs])
    # A row of the table is a run's first row, and for each axis the step, count, start and size of its cut.
    table = np.array([[end - run.blocks, *_steps(run.region)] for run, end in zip(runs, ends, strict=True)], np.int32)
    own = np.array([[hashed(run.path), run.reading] for run in runs], np.int32)
    place = xp.arange(length, dtype=np.int32)
    which = xp.minimum(xp.searchsorted(ends.astype(np.int32), place, side="right"), len(runs) - 1)
    first, *steps = xp.moveaxis(xp.asarray(table)[which], 1, 0)
    number = place - first
    axes = [steps[i : i + 4] for i in range(0, len(steps), 4)]
    starts = [start + number // step % count * size for step, count, start, size in axes]
    rows = xp.concatenate([xp.asarray(own)[which], xp.stack([number, *starts], axis=1)], axis=1)
    return xp.where((place < ends[-1])[:, None], rows, 0).astype(np.int32)


def _steps(region: Region) -> list[int]:
    counts = [cut.count for cut in region]
    return [x for i, cut in enumerate(region) for x in (math.prod(counts[i + 1 :]), cut.count, cut.start, cut.size)]

"""Choose the devices that compute the stacks with fewer blocks than there are devices."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from precond.blocks import BlockInfo
from precond.control_flow import run_if

__all__ = ["Home", "compute_at", "homes_of"]

LEAST = 512
"""The shorter side of a square matrix whose way to another device and back takes as long as five steps on it.

It is an estimate, for 50 GB/s between devices and 1e14 operations in a second.
"""


class Home(NamedTuple):
    """Say where the blocks of a stack are, and where they are computed.

    Attributes:
      rows: how many rows of a device can be blocks. The others fill up the stack.
      devices: how many devices have blocks, from the first one.
      shift: device i computes the blocks of device `i - shift`.
    """

    rows: int
    devices: int
    shift: int


def homes_of(names: Sequence[str], stacks: Sequence[jax.Array], info: BlockInfo) -> list[Home]:
    """Give the stacks that need no more than some of the devices to those with the least work so far.

    Args:
      names: the names of the stacks.
      stacks: this device's rows of each, `[N, m, n]`.
      info: the description of these stacks.

    Examples:
      >>> from precond.blocks.layout import Origin
      >>> from precond.collectives import SINGLE
      >>> origins = {
      ...     "600x600": (Origin("a", None, 1, True),),
      ...     "700x700": (Origin("b", None, 1, True),),
      ... }
      >>> info = BlockInfo(origins=origins, collectives=SINGLE._replace(count=8))
      >>> stacks = jnp.zeros((1, 600, 600)), jnp.zeros((1, 700, 700))
      >>> homes_of(("600x600", "700x700"), stacks, info)[0]
      Home(rows=1, devices=1, shift=1)
    """
    count = info.collectives.count
    found, loads = {}, np.zeros(count)

    def work(i: int) -> int:
        m, n = sorted(stacks[i].shape[1:])
        return m * m * (2 * n + 7 * m)

    for i in sorted(range(len(names)), key=lambda i: (-work(i), names[i])):
        name, (rows, *sides) = names[i], stacks[i].shape
        total = rows * count
        if info.origins is not None and name in info.origins:
            total = sum(origin.blocks for origin in info.origins[name])
        devices = min(-(-total // max(rows, 1)), count)
        may_move = devices < count and min(sides) >= LEAST and _alone()
        busiest = [loads[np.arange(shift, shift + devices) % count].max(initial=0) for shift in range(count)]
        home = Home(min(rows, total), devices, int(np.argmin(busiest)) if may_move else 0)
        loads[np.arange(home.shift, home.shift + devices) % count] += home.rows * work(i)
        found[i] = home
    return [found[i] for i in range(len(names))]


def _alone() -> bool:
    """Return whether no device waits for another one inside of a condition, as the compiler's own axes may need it."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    return all(size == 1 or kind == AxisType.Manual for size, kind in kinds)


def compute_at(
    home: Home, info: BlockInfo, function: Callable[..., Any], matrices: jax.Array, errors: jax.Array, *given: Any
) -> tuple[jax.Array, jax.Array]:
    """Run a function on the rows of a stack that can be blocks, where they have their home.

    Args:
      home: the home of the stack.
      info: the info of the stacks.
      function: a function from matrices `[n, ..]`, a number for each `[n]`, and `given` to such matrices and numbers.
        Zeros must stay zeros.
      matrices: the matrices of the stack, `[N, ..]`.
      errors: the errors of the stack, `[N]`.
      *given: what is the same on all devices.
    """
    rows, filled = home.rows, matrices.shape[0] - home.rows
    cut, before = matrices[:rows], errors[:rows]
    if home.devices == info.collectives.count or not _alone():
        out, after = function(cut, before, *given)
    else:
        out, after = _by_some(home, info, function, cut, before, *given)
    if filled:
        out = jnp.pad(out, [(0, filled), *[(0, 0)] * (out.ndim - 1)])
        after = jnp.concatenate([after, errors[rows:]])
    return out, after


def _by_some(home: Home, info: BlockInfo, function: Callable[..., Any], *arrays: Any) -> Any:
    """Run a function on the devices that have blocks, or are the home of some."""
    (cut, before), given = arrays[:2], arrays[2:]
    count = info.collectives.count
    there = [(i, (i + home.shift) % count) for i in range(home.devices)]

    def sent(tree: Any, pairs: list[tuple[int, int]]) -> Any:
        return info.collectives.send(tree, pairs) if home.shift else tree

    here = (info.collectives.index() - home.shift) % count < home.devices
    moved = sent((cut, before), there)
    done = run_if(here, function, lambda x, error, *_: (0 * x, error), *moved, *given)
    return sent(done, [(j, i) for i, j in there])

"""The costly step: one call of the root's kernel for all factors of one size, over axes and stacks."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from precond.blocks import BlockInfo
from precond.control_flow import loop_between, run_if
from precond.engine.schedule import Refresh
from precond.linalg import Packed, dense
from precond.roots import Power, Root
from precond.scopes import named

__all__ = ["refresh_roots"]

Factor = jax.Array | Packed


class Group(NamedTuple):
    """Factors of one size, which one call refreshes.

    In every turn of a period as many roots are due as in any other, or one less at the end, so that no step is much
    longer than another. A stack of n rows has `n // turns` rows in each turn, which stand together, the first of them
    in turn 0. The rows that are left over at the ends of the stacks are numbered through; row i of them is due in turn
    `i % turns`, and fills slot `i // turns`.

    Attributes:
      members: their indices in the list of all factors.
      rows: the length of each one's stack in a row group.
      power: what their root needs (see `Root`).
      turns: the number of turns in a period.
    """

    members: tuple[int, ...]
    rows: tuple[int, ...]
    power: Any
    turns: int

    @property
    def roots(self) -> int:
        """How many roots a row group has."""
        return sum(self.rows)

    @property
    def due(self) -> int:
        """How many roots are due in a turn, at most."""
        return -(-self.roots // self.turns)

    @property
    def whole(self) -> list[int]:
        """How many rows of each stack are due in every turn."""
        return [n // self.turns for n in self.rows]

    @property
    def slots(self) -> list[list[tuple[int, int, int]]]:
        """For each slot, where the rows are that fill it in some turn.

        Each entry is a member, the number of its first row that is left over, and how many of its rows are.
        """
        left = [n % self.turns for n in self.rows]
        starts = (np.cumsum(left) - left).tolist()
        found = []
        for slot in range(-(-sum(left) // self.turns)):
            first, last = slot * self.turns, (slot + 1) * self.turns
            spans = zip(starts, left, strict=True)
            found.append([(k, start, n) for k, (start, n) in enumerate(spans) if start < last and first < start + n])
        return found

    def of(self, everything: Sequence[Any]) -> list[Any]:
        """The entries of its members."""
        return [everything[i] for i in self.members]


def _groups(factors: Sequence[Factor], powers: Sequence[Power], row_groups: int, turns: int) -> list[Group]:
    """Factors of equal size, dtype and power."""
    found: dict[Any, list[int]] = {}
    for i, (factor, power) in enumerate(zip(factors, powers, strict=True)):
        found.setdefault((factor.shape[1:], factor.dtype, power), []).append(i)
    rows = [factor.shape[0] // row_groups for factor in factors]
    return [Group(tuple(m), tuple(rows[i] for i in m), power, turns) for (*_, power), m in found.items()]


def _places(group: Group, slot: int, turn: Any) -> list[tuple[int, Any, Any]]:
    """For each stack that a slot may be filled from: its member, the row, and whether it is filled from there now."""
    out = []
    for k, start, n in group.slots[slot]:
        i = slot * group.turns + turn - start
        out.append((k, group.whole[k] * group.turns + jnp.clip(i, 0, n - 1), (i >= 0) & (i < n)))
    return out


def _pick(group: Group, turn: Any, trees: Sequence[Any]) -> Any:
    """The rows that are due in a turn, `[due, ..]`, from a tree of stacks for each member; zeros in empty slots."""

    def one(*stacks: jax.Array) -> jax.Array:
        rows = [lax.dynamic_slice_in_dim(x, turn * n, n) for x, n in zip(stacks, group.whole, strict=True) if n]
        for slot in range(len(group.slots)):
            row = jnp.zeros((1, *stacks[0].shape[1:]), stacks[0].dtype)
            for k, place, here in _places(group, slot, turn):
                row = jnp.where(here, lax.dynamic_slice_in_dim(stacks[k], place, 1), row)
            rows.append(row)
        return rows[0] if len(rows) == 1 else jnp.concatenate(rows)

    return jax.tree.map(one, *trees)


def _put(group: Group, turn: Any, trees: Sequence[Any], rows: Any) -> list[Any]:
    """The inverse of `_pick`: the stacks with these rows in their places."""

    def one(rows: jax.Array, *stacks: jax.Array) -> list[jax.Array]:
        out, start = list(stacks), 0
        for k, n in enumerate(group.whole):
            if n:
                out[k] = lax.dynamic_update_slice_in_dim(out[k], rows[start : start + n], turn * n, 0)
            start += n
        for slot in range(len(group.slots)):
            for k, place, here in _places(group, slot, turn):
                old = lax.dynamic_slice_in_dim(out[k], place, 1)
                row = jnp.where(here, rows[start + slot : start + slot + 1], old)
                out[k] = lax.dynamic_update_slice_in_dim(out[k], row, place, 0)
        return out

    leaves, treedef = jax.tree.flatten(rows)
    done = [one(*x) for x in zip(leaves, *map(treedef.flatten_up_to, trees), strict=True)]
    return [treedef.unflatten(column) for column in zip(*done, strict=True)]


def _by_row_group(function: Callable[..., Any], row_groups: int) -> Callable[..., Any]:
    """Call a function of stacks on each row group by itself."""
    if row_groups == 1:
        return function

    def each(*trees: Any) -> Any:
        # No -1: what is kept of a diagonal factor may be empty.
        cut = jax.tree.map(lambda x: x.reshape(row_groups, x.shape[0] // row_groups, *x.shape[1:]), trees)
        return jax.tree.map(lambda x: lax.collapse(x, 0, 2), jax.vmap(function)(*cut))

    return each


def _refreshed(
    root: Root, group: Group, turn: Any, first: Any, keep: Any, factors: Sequence[Any], derived: Sequence[Any]
) -> Any:
    """What is derived now from the factors that are due in a turn, `[due, ..]`; as it was, unless `keep`."""
    old = _pick(group, turn, derived)

    def work() -> Any:
        return root.refresh(dense(_pick(group, turn, factors)), old, group.power, first)

    # Fewer roots than turns: in some turns none is due.
    new = work() if group.turns <= group.roots else run_if(turn < group.roots, work, lambda: old)
    return jax.tree.map(lambda x, y: jnp.where(keep, x, y), new, old)


def refresh_roots(
    root: Root,
    schedule: Refresh,
    step: jax.Array,
    factors: Sequence[Factor],
    derived: Sequence[Any],
    powers: Sequence[Power],
    blocks: BlockInfo,
) -> list[Any]:
    """Refresh what is derived from the factors, where it is due.

    One loop over turns does it: all turns at the first step, one turn at a later step, none if nothing is due. Each
    turn picks its rows, refreshes them and puts them back in place, so that the program of a method is compiled once
    for each size. How many turns there are depends on the step alone; if no gradient is finite, what is refreshed is
    not put back.

    Args:
      root: whose `refresh` to call.
      schedule: from `precond.every`.
      step: counted from 1.
      factors: `[N, d, d]` each, N and d their own; dense or packed.
      derived: what `root.init` or an earlier refresh made of each.
      powers: what the root needs for each.
      blocks: `row_groups`: turns, and whatever a root does for the matrices of a call together, belong to one of these,
        so that no mesh changes them. `root_collectives`: `factors` are this device's part of what `derived` is all of,
        and only what is refreshed is gathered.

    Returns:
      What is derived now; entries that are not due, as they were.
    """
    derived, devices = list(derived), blocks.root_collectives
    if not derived:
        return derived
    turns = schedule.period if schedule.stagger else 1  # as many as there are, or one in which all roots are due
    groups = _groups(factors, powers, blocks.row_groups, turns)
    keep = True if blocks.any_finite is None else blocks.any_finite

    def turn(now: Any, derived: list[Any], factors: Sequence[Factor]) -> list[Any]:
        mine, out = devices.local(derived), list(derived)
        for group in groups:
            with named("refresh", f"{group.due} of {group.roots}, every {schedule.period}"):
                work = functools.partial(_refreshed, root, group, now, step == schedule.start, keep)
                new = devices.all_gather(_by_row_group(work, blocks.row_groups)(group.of(factors), group.of(mine)))
                put = _by_row_group(functools.partial(_put, group, now), blocks.row_groups * devices.count)
                for i, x in zip(group.members, put(group.of(derived), new), strict=True):
                    out[i] = x
        return out

    if schedule.period == 1 and schedule.start == 1:
        return turn(0, derived, factors)
    with named("turns"):
        return loop_between(*schedule.turns_due(step), turn, derived, list(factors), most=turns)

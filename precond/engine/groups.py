"""Group the factors that one call refreshes, and take and put back the rows that are due in a turn."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from precond.control_flow import run_if
from precond.engine.choose_sizes import choose_sizes
from precond.linalg import Factor, row_major
from precond.roots import Power, Root
from precond.trees import Tree

__all__ = ["RefreshGroup", "groups_of", "put_rows", "take_rows", "transported"]

Fit = Callable[[Any], Any]
"""A function that pads rows of one stack to the size of the group."""


class Span(NamedTuple):
    """Name the rows of one member that fill a slot in one of the turns.

    Attributes:
      member: the number of the member in its group.
      start: the number of the first of these rows among the remaining rows of all members.
      count: the number of these rows.
    """

    member: int
    start: int
    count: int


class DueRows(NamedTuple):
    """Name consecutive rows of one member that are refreshed in a turn.

    Attributes:
      member: the number of the member in its group.
      start: the first of the rows in the member's stack.
      count: the number of rows.
      due: whether they are due in this turn; True if they are due in every turn.
    """

    member: int
    start: Any
    count: int
    due: jax.Array | bool


class RefreshGroup(NamedTuple):
    """Describe the factors that one call refreshes.

    All turns of a period refresh equally many roots, or one less, so that no step is much longer than another. Of a
    stack of n rows, each turn refreshes `n // turns` consecutive rows, and turn 0 the first of them. The remaining rows
    of all stacks are numbered together. Row i of these is due in turn `i % turns`, and fills slot `i // turns`.

    For example, let stack A have 5 rows, stack B 3 rows, and a period 4 turns. Each turn takes one row of A. One row of
    A and three rows of B remain, and fill one slot: turn 0 also takes row 4 of A, and turns 1, 2 and 3 take rows 0, 1
    and 2 of B.

    Attributes:
      members: the indices of these factors in the list of all factors.
      rows: the number of rows of each member in a row group.
      size: the size of the matrices.
      padded: whether the matrices of some members are smaller, and are padded to this size.
      power: the power of their root (see `Root`).
      turns: the number of turns in a period.
    """

    members: tuple[int, ...]
    rows: tuple[int, ...]
    size: int
    padded: bool
    power: Power
    turns: int

    @property
    def roots(self) -> int:
        """The number of roots in a row group."""
        return sum(self.rows)

    @property
    def due(self) -> int:
        """The largest number of roots that are due in a turn."""
        return -(-self.roots // self.turns)

    @property
    def rows_each_turn(self) -> list[int]:
        """The number of rows of each member that are due in every turn."""
        return [n // self.turns for n in self.rows]

    @property
    def slots(self) -> list[list[Span]]:
        """The rows that fill each slot in one of the turns."""
        left = [n % self.turns for n in self.rows]
        starts = (np.cumsum(left) - left).tolist()
        spans = [Span(k, start, n) for k, (start, n) in enumerate(zip(starts, left, strict=True))]
        found = []
        for slot in range(-(-sum(left) // self.turns)):
            first, last = slot * self.turns, (slot + 1) * self.turns
            found.append([span for span in spans if span.start < last and first < span.start + span.count])
        return found

    def of(self, everything: Sequence[Any]) -> list[Any]:
        """Return the entries of the members."""
        return [everything[i] for i in self.members]


def groups_of(
    root: Root, factors: Sequence[Factor], powers: Sequence[Power], row_groups: int, turns: int
) -> list[RefreshGroup]:
    """Group factors by size, dtype and power.

    If a root can be padded, factors join a larger size where there are many sizes, or where it is hardly larger.

    Args:
      root: the root whose `refresh` is called.
      factors: arrays `[N, d, d]` or `[N, d]`, each with an N and a d of its own.
      powers: the power that the root needs for each factor.
      row_groups: the number of row groups of which every stack consists.
      turns: the number of turns in a period.

    Examples:
      >>> from precond import inverse_root
      >>> factors = [jnp.zeros((3, d, d)) for d in range(2, 32)]
      >>> len(groups_of(inverse_root(), factors, [0.25] * 30, 1, 1))
      8
    """
    rows = [factor.shape[0] // row_groups for factor in factors]
    kinds: dict[Any, dict[int, list[int]]] = {}
    for i, (factor, power) in enumerate(zip(factors, powers, strict=True)):
        by_size = kinds.setdefault((len(factor.shape), factor.dtype, power), {})
        by_size.setdefault(factor.shape[1], []).append(i)
    groups = []
    for (rank, _, power), by_size in kinds.items():
        # Diagonal factors and 1 by 1 matrices are cheap, so that they are not padded.
        join = root.padding is not None and rank == 3
        costs = {d: sum(rows[i] for i in members) for d, members in by_size.items() if d > 1}
        targets = choose_sizes(costs) if join else {}
        joined: dict[int, list[int]] = {}
        for d, members in by_size.items():
            joined.setdefault(targets.get(d, d), []).extend(members)
        for d, members in joined.items():
            padded = any(factors[i].shape[1] != d for i in members)
            groups.append(RefreshGroup(tuple(members), tuple(rows[i] for i in members), d, padded, power, turns))
    return groups


def _slot_rows(group: RefreshGroup, slot: int, turn: jax.Array) -> list[DueRows]:
    """Return the row of each member that can fill a slot, and whether it fills it in this turn."""
    out = []
    for k, start, n in group.slots[slot]:
        i = slot * group.turns + turn - start
        row = group.rows_each_turn[k] * group.turns + jnp.clip(i, 0, n - 1)
        out.append(DueRows(k, row, 1, (i >= 0) & (i < n)))
    return out


def _rows(tree: Tree, start: jax.Array, count: int) -> Any:
    return jax.tree.map(lambda x: row_major(lax.dynamic_slice_in_dim(x, start, count)), tree)


def _due_rows(group: RefreshGroup, turn: jax.Array) -> list[DueRows]:
    """Return all rows that are due in a turn, or can be."""
    always = [DueRows(k, turn * n, n, due=True) for k, n in enumerate(group.rows_each_turn) if n]
    return always + [rows for slot in range(len(group.slots)) for rows in _slot_rows(group, slot, turn)]


def transported(
    root: Root,
    group: RefreshGroup,
    turn: jax.Array,
    moments: Sequence[Any],
    old: Sequence[Any],
    new: Sequence[Any],
    places: Sequence[tuple[int, int]],
) -> list[Any]:
    """Return the moments after a turn, by `Root.transport` of the rows that were due.

    Args:
      root: a root that has a `transport`.
      group: the group whose rows were refreshed.
      turn: the number of the turn.
      moments: the `RootState.moments` of all stacks.
      old: the entry in `RootState.derived` of each member before the turn.
      new: the entry of each member after it.
      places: the stack and the axis of each member.
    """
    assert root.transport is not None
    out = list(moments)
    for k, start, count, due in _due_rows(group, turn):
        stack, axis = places[k]
        rows = [_rows(tree, start, count) for tree in (out[stack], old[k], new[k])]
        move = functools.partial(root.transport, axis=axis)
        moved = move(*rows) if isinstance(due, bool) else run_if(due, move, lambda *rows: rows[0], *rows)
        out[stack] = _put_at(out[stack], moved, start)
    return out


def _put_at(tree: Tree, rows: Tree, place: jax.Array) -> Any:
    def one(x: jax.Array, new: jax.Array) -> jax.Array:
        return new if x.shape == new.shape else lax.dynamic_update_slice_in_dim(x, new, place, 0)

    return jax.tree.map(one, tree, rows)


def take_rows(group: RefreshGroup, turn: jax.Array, trees: Sequence[Any], fit: Fit) -> Any:
    """Take the rows that are due in a turn, `[due, ..]`, with zeros in empty slots.

    Args:
      group: the group whose rows are due.
      turn: the number of the turn.
      trees: a tree of stacks for each member.
      fit: a function that pads the rows of a member to the size of the group.
    """
    rows = [fit(_rows(tree, turn * n, n)) for tree, n in zip(trees, group.rows_each_turn, strict=True) if n]
    for slot in range(len(group.slots)):
        row: Any = None
        for k, start, count, due in _slot_rows(group, slot, turn):
            found = fit(_rows(trees[k], start, count))
            row = jax.tree.map(jnp.zeros_like, found) if row is None else row
            row = jax.tree.map(lambda x, y, due=due: jnp.where(due, x, y), found, row)
        rows.append(row)
    return jax.tree.map(lambda *x: x[0] if len(x) == 1 else jnp.concatenate(x), *rows)


def put_rows(
    group: RefreshGroup, turn: jax.Array, trees: Sequence[Any], rows: Tree, crop: Callable[[Any, Any], Any]
) -> list[Any]:
    """Put the rows that were due back in their places in the stacks: the inverse of `take_rows`.

    Args:
      group: the group whose rows were due.
      turn: the number of the turn.
      trees: a tree of stacks for each member.
      rows: the new rows, `[due, ..]`.
      crop: a function from rows of the group, and the stacks of a member, to rows of that member.
    """
    out, passed, rows = list(trees), 0, jax.tree.map(row_major, rows)
    for k, n in enumerate(group.rows_each_turn):
        if n:
            new = crop(jax.tree.map(lambda x, a=passed, n=n: x[a : a + n], rows), trees[k])
            out[k] = _put_at(out[k], new, turn * n)
        passed += n
    for slot in range(len(group.slots)):
        row = jax.tree.map(lambda x, i=passed + slot: x[i : i + 1], rows)
        for k, start, count, due in _slot_rows(group, slot, turn):
            old, new = _rows(out[k], start, count), crop(row, trees[k])
            kept = jax.tree.map(lambda x, y, due=due: jnp.where(due, x, y), new, old)
            out[k] = _put_at(out[k], kept, start)
    return out

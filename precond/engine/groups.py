"""Which factors one call refreshes, and which of their rows are due in a turn."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from precond.control_flow import run_if
from precond.linalg import Packed, row_major
from precond.roots import Power, Root
from precond.trees import Tree

__all__ = ["Group", "groups_of", "pick", "put", "transported"]

Factor = jax.Array | Packed
Fit = Callable[[Any], Any]
"""Pads rows of one stack to the size of the group."""

SIZES = 8
"""The largest number of sizes that are compiled, since the compiler needs time for every size."""


class Group(NamedTuple):
    """Factors that one call refreshes.

    All turns of a period refresh equally many roots, or one less, so that no step is much longer than another. A stack
    of n rows gives `n // turns` rows to each turn, which stand together, its first rows to turn 0. The remaining rows
    of all stacks are numbered together. Row i of these is due in turn `i % turns`, and fills slot `i // turns`.

    Attributes:
      members: their indices in the list of all factors.
      rows: the length of each one's stack in a row group.
      size: of the matrices.
      padded: whether those of some members are smaller, and are padded to it.
      power: what their root needs (see `Root`).
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
    def whole(self) -> list[int]:
        """The number of rows of each stack that are due in every turn."""
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
        """Return the entries of the members."""
        return [everything[i] for i in self.members]


def groups_of(
    root: Root, factors: Sequence[Factor], powers: Sequence[Power], row_groups: int, turns: int
) -> list[Group]:
    """Group factors by size, dtype and power.

    If a root can be padded and there are many sizes, smaller factors join a larger size, so that few are compiled.

    Args:
      root: whose `refresh` they are for.
      factors: `[N, d, d]` each, or `[N, d]`.
      powers: what the root needs for each.
      row_groups: of which every stack consists.
      turns: in a period.

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
        # A diagonal costs nothing, and a matrix of size 1 is not a matrix.
        join = root.padding is not None and rank == 3
        costs = {d: sum(rows[i] for i in members) for d, members in by_size.items() if d > 1}
        targets = _few(costs, SIZES) if join else {}
        joined: dict[int, list[int]] = {}
        for d, members in by_size.items():
            joined.setdefault(targets.get(d, d), []).extend(members)
        for d, members in joined.items():
            padded = any(factors[i].shape[1] != d for i in members)
            groups.append(Group(tuple(members), tuple(rows[i] for i in members), d, padded, power, turns))
    return groups


def _few(counts: dict[int, int], most: int) -> dict[int, int]:
    """Choose so many sizes, and return for each size the one that it is padded to, with the fewest operations."""
    sizes = sorted(counts)
    if len(sizes) <= most:
        return {d: d for d in sizes}
    total = np.cumsum([0, *(counts[d] for d in sizes)])
    # cost[j]: of the first j sizes, in so many groups; start[k][j]: where the last of k + 1 groups begins.
    cost, starts = np.array([0.0, *[np.inf] * len(sizes)]), []
    for _ in range(most):
        ends = np.array([[c + (total[j] - total[i]) * float(sizes[j - 1]) ** 3 for i, c in enumerate(cost[:j])]
                         + [np.inf] * (len(sizes) - j) for j in range(1, len(sizes) + 1)])  # fmt: skip
        starts.append(np.argmin(ends, axis=1))
        cost = np.array([np.inf, *np.min(ends, axis=1)])
    out, j = {}, len(sizes)
    for start in reversed(starts):
        i = int(start[j - 1])
        out |= dict.fromkeys(sizes[i:j], sizes[j - 1])
        j = i
    return out


def _places(group: Group, slot: int, turn: jax.Array) -> list[tuple[int, jax.Array, jax.Array]]:
    """Return for each stack that may fill a slot its member, the row, and whether it fills the slot now."""
    out = []
    for k, start, n in group.slots[slot]:
        i = slot * group.turns + turn - start
        out.append((k, group.whole[k] * group.turns + jnp.clip(i, 0, n - 1), (i >= 0) & (i < n)))
    return out


def _rows(tree: Tree, start: jax.Array, count: int) -> Any:
    return jax.tree.map(lambda x: row_major(lax.dynamic_slice_in_dim(x, start, count)), tree)


def _spots(group: Group, turn: jax.Array) -> list[tuple[int, Any, int, Any]]:
    """Return a member, the first of its rows that are due in a turn, their number, and whether they are due at all."""
    whole: list[tuple[int, Any, int, Any]] = [(k, turn * n, n, None) for k, n in enumerate(group.whole) if n]
    left = [_places(group, slot, turn) for slot in range(len(group.slots))]
    return whole + [(k, place, 1, here) for places in left for k, place, here in places]


def transported(
    root: Root,
    group: Group,
    turn: jax.Array,
    moments: Sequence[Any],
    old: Sequence[Any],
    new: Sequence[Any],
    places: Sequence[tuple[int, int]],
) -> list[Any]:
    """Return the moments after a turn, by `Root.transport` of the rows that were due.

    Args:
      root: that has a `transport`.
      group: whose rows were refreshed.
      turn: its number.
      moments: the `RootState.moments` of all stacks.
      old: what was derived from each member before the turn.
      new: what is derived from each now.
      places: for each member its stack and its axis.
    """
    assert root.transport is not None
    out = list(moments)
    for k, place, count, here in _spots(group, turn):
        stack, axis = places[k]
        rows = [_rows(tree, place, count) for tree in (out[stack], old[k], new[k])]
        move = functools.partial(root.transport, axis=axis)
        moved = move(*rows) if here is None else run_if(here, move, lambda *rows: rows[0], *rows)
        out[stack] = _put_at(out[stack], moved, place)
    return out


def _put_at(tree: Tree, rows: Tree, place: jax.Array) -> Any:
    def one(x: jax.Array, new: jax.Array) -> jax.Array:
        return new if x.shape == new.shape else lax.dynamic_update_slice_in_dim(x, new, place, 0)

    return jax.tree.map(one, tree, rows)


def pick(group: Group, turn: jax.Array, trees: Sequence[Any], fit: Fit) -> Any:
    """Return the rows that are due in a turn, `[due, ..]`; zeros in empty slots.

    Args:
      group: whose rows.
      turn: its number.
      trees: a tree of stacks for each member.
      fit: changes the rows of a member, such as their size.
    """
    rows = [fit(_rows(tree, turn * n, n)) for tree, n in zip(trees, group.whole, strict=True) if n]
    for slot in range(len(group.slots)):
        row: Any = None
        for k, place, here in _places(group, slot, turn):
            found = fit(_rows(trees[k], place, 1))
            row = jax.tree.map(jnp.zeros_like, found) if row is None else row
            row = jax.tree.map(lambda x, y, here=here: jnp.where(here, x, y), found, row)
        rows.append(row)
    return jax.tree.map(lambda *x: x[0] if len(x) == 1 else jnp.concatenate(x), *rows)


def put(group: Group, turn: jax.Array, trees: Sequence[Any], rows: Tree, crop: Callable[[Any, Any], Any]) -> list[Any]:
    """Return the stacks with the rows that were due in their places, the inverse of `pick`.

    Args:
      group: whose rows.
      turn: its number.
      trees: a tree of stacks for each member.
      rows: `[due, ..]`.
      crop: from rows of the group, and the stacks of a member, to rows of that member.
    """
    out, start, rows = list(trees), 0, jax.tree.map(row_major, rows)

    for k, n in enumerate(group.whole):
        if n:
            mine = crop(jax.tree.map(lambda x, a=start, n=n: x[a : a + n], rows), trees[k])
            out[k] = _put_at(out[k], mine, turn * n)
        start += n
    for slot in range(len(group.slots)):
        row = jax.tree.map(lambda x, i=start + slot: x[i : i + 1], rows)
        for k, place, here in _places(group, slot, turn):
            old, new = _rows(out[k], place, 1), crop(row, trees[k])
            kept = jax.tree.map(lambda x, y, here=here: jnp.where(here, x, y), new, old)
            out[k] = _put_at(out[k], kept, place)
    return out

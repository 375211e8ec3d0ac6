"""The costly step: one call of the root's kernel for all factors of one size, over axes and stacks."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from precond.linalg import Packed, dense
from precond.roots import Root
from precond.scopes import named
from precond.transforms.schedule import Refresh

__all__ = ["refresh_roots"]

Factor = jax.Array | Packed


class Group(NamedTuple):
    """Factors of one size, that one call refreshes.

    Attributes:
      members: their indices in the list of all factors.
      rows: the length of each one's stack.
      power: what their root needs (see `Root`).
    """

    members: tuple[int, ...]
    rows: tuple[int, ...]
    power: Any


def _groups(root: Root, factors: Sequence[Factor], orders: Sequence[int]) -> list[Group]:
    """Factors of equal size, dtype and power."""
    found: dict[Any, list[int]] = {}
    for i, (factor, order) in enumerate(zip(factors, orders, strict=True)):
        kind = (factor.shape[1:], factor.dtype, root.power(order))
        found.setdefault(kind, []).append(i)
    return [Group(tuple(m), tuple(factors[i].shape[0] for i in m), power) for (*_, power), m in found.items()]


def _finite(new: Any, old: Any) -> Any:
    """`new` where all of an entry is finite, else `old`: a root that failed is worse than one that is stale."""
    flat = [jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim))) for x in jax.tree.leaves(new)]
    good = jnp.all(jnp.stack(flat), axis=0)
    return jax.tree.map(lambda n, o: jnp.where(good.reshape(-1, *[1] * (n.ndim - 1)), n, o), new, old)


def _kernel(root: Root, factors: Factor, old: Any, power: Any, first: Any) -> Any:
    return _finite(root.refresh(dense(factors), old, power, first), old)


def _refresh_all(root: Root, group: Group, factors: list[Factor], derived: list[Any], first: Any) -> list[Any]:
    def concatenate(trees: list[Any]) -> Any:
        return jax.tree.map(lambda *x: x[0] if len(x) == 1 else jnp.concatenate(x), *trees)

    stack, old = concatenate(factors), concatenate(derived)
    new = _kernel(root, stack, old, group.power, first)
    ends = np.cumsum(group.rows)
    return [
        jax.tree.map(lambda x, end=end, n=n: x[end - n : end], new) for end, n in zip(ends, group.rows, strict=True)
    ]


def _refresh_due(root: Root, group: Group, factors: list[Factor], derived: list[Any], slots: jax.Array) -> list[Any]:
    """Gather the roots in `slots` (numbered through the group) from their stacks, refresh, and put them back."""
    starts = np.cumsum(group.rows) - group.rows
    # Where each slot's root stands in each stack; beyond its end if it belongs to another one, or the slot is empty.
    places = [jnp.where(slots >= a, slots - a, n) for a, n in zip(starts, group.rows, strict=True)]

    def gather(*stacks: jax.Array) -> jax.Array:
        picked = [x.at[p].get(mode="fill", fill_value=0) for x, p in zip(stacks, places, strict=True)]
        return functools.reduce(jnp.add, picked)

    old = jax.tree.map(gather, *derived)
    new = _kernel(root, jax.tree.map(gather, *factors), old, group.power, False)
    return [
        jax.tree.map(lambda x, n, p=p: x.at[p].set(n, mode="drop"), stack, new)
        for stack, p in zip(derived, places, strict=True)
    ]


def refresh_roots(
    root: Root,
    schedule: Refresh,
    step: jax.Array,
    factors: Sequence[Factor],
    derived: Sequence[Any],
    orders: Sequence[int],
    going: jax.Array | None = None,
    sections: int = 1,
) -> list[Any]:
    """What is derived from the factors, refreshed where it is due.

    Args:
      root: whose `refresh` to call.
      schedule: from `precond.every`.
      step: counted from 1.
      factors: `[N, d, d]` each, N and d their own; dense or packed.
      derived: what `root.init` or an earlier refresh made of each.
      orders: the number of factors of the tensor that each belongs to.
      going: whether anything is to be done at all; None is yes.
      sections: each stack consists of so many of equal length, which stand on as many devices or on fewer. Turns, and
        whatever a root does for the matrices of a call together, belong to a section, so that no mesh changes them.

    Returns:
      What is derived now; entries that are not due, or whose refresh is not finite, as they were.
    """

    def section(factors: Any, derived: Any) -> list[Any]:
        return _refresh_section(root, schedule, step, factors, derived, orders, going)

    if sections == 1:
        return section(factors, derived)
    cut = jax.tree.map(lambda x: x.reshape(sections, -1, *x.shape[1:]), (list(factors), list(derived)))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.vmap(section)(*cut))


def _refresh_section(
    root: Root,
    schedule: Refresh,
    step: jax.Array,
    factors: Sequence[Factor],
    derived: Sequence[Any],
    orders: Sequence[int],
    going: jax.Array | None,
) -> list[Any]:
    groups = _groups(root, factors, orders)

    def over_groups(refresh: Callable[..., list[Any]], part: str, due: Callable[[int], int] = lambda rows: rows) -> Any:
        out = list(derived)
        for group in groups:
            chosen, rows = [[x[i] for i in group.members] for x in (factors, derived)], sum(group.rows)
            with named(part, f"{due(rows)} of {rows}, every {schedule.period}"):
                new = refresh(group, *chosen)
            for i, x in zip(group.members, new, strict=True):
                out[i] = x
        return out

    def nothing() -> list[Any]:
        return list(derived)

    def everything() -> list[Any]:
        first = True if schedule.stagger else step == schedule.start
        part = "first" if schedule.stagger else "refresh"
        return over_groups(lambda g, f, d: _refresh_all(root, g, f, d, first), part)

    def turn() -> list[Any]:
        def due(group: Group, f: list[Factor], d: list[Any]) -> list[Any]:
            turns = schedule.turns(sum(group.rows))
            slots = jnp.asarray(turns)[(step - schedule.start) % schedule.period]
            if np.all(np.min(turns, axis=1) < sum(group.rows)):
                return _refresh_due(root, group, f, d, slots)
            # Fewer roots than steps in a period: in some steps none has its turn.
            some = slots[0] < sum(group.rows)
            return lax.cond(some, lambda: _refresh_due(root, group, f, d, slots), lambda: d)

        return over_groups(due, "refresh", lambda rows: schedule.turns(rows).shape[1])

    if schedule.stagger:
        stage = (step >= schedule.start).astype(jnp.int32) + (step > schedule.start)
        return lax.switch(stage if going is None else jnp.where(going, stage, 0), [nothing, everything, turn])
    due = schedule.everything(step)
    if going is not None:
        return lax.cond(due & going, everything, nothing)
    return everything() if schedule.period == 1 and schedule.start == 1 else lax.cond(due, everything, nothing)

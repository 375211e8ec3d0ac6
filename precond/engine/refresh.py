"""The costly step: one call of the root's kernel for all factors of one size, over axes and stacks."""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from precond.engine.schedule import Refresh
from precond.linalg import Packed, dense
from precond.mesh import WHOLE, Share
from precond.roots import Power, Root
from precond.scopes import named

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


def _groups(factors: Sequence[Factor], powers: Sequence[Power], sections: int) -> list[Group]:
    """Factors of equal size, dtype and power, and how many of them a section has."""
    found: dict[Any, list[int]] = {}
    for i, (factor, power) in enumerate(zip(factors, powers, strict=True)):
        kind = (factor.shape[1:], factor.dtype, power)
        found.setdefault(kind, []).append(i)
    rows = [factor.shape[0] // sections for factor in factors]
    return [Group(tuple(m), tuple(rows[i] for i in m), power) for (*_, power), m in found.items()]


def _named(part: str, schedule: Refresh, group: Group, due: int) -> AbstractContextManager[Any]:
    """The scope of a group's refresh, which tells how many of its roots have their turn, and when."""
    return named(part, f"{due} of {sum(group.rows)}, every {schedule.period}")


def _concatenate(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *x: x[0] if len(x) == 1 else jnp.concatenate(x), *trees)


def _split(group: Group, new: Any) -> list[Any]:
    ends = np.cumsum(group.rows)
    return [
        jax.tree.map(lambda x, end=end, n=n: x[end - n : end], new) for end, n in zip(ends, group.rows, strict=True)
    ]


def _refresh_all(root: Root, group: Group, first: Any, factors: list[Factor], derived: list[Any]) -> list[Any]:
    new = root.refresh(dense(_concatenate(factors)), _concatenate(derived), group.power, first)
    return _split(group, new)


def _places(group: Group, slots: jax.Array) -> list[jax.Array]:
    """Where each slot's root stands in each stack; beyond its end if it is of another one, or there is none."""
    starts = np.cumsum(group.rows) - group.rows
    return [jnp.where(slots >= a, slots - a, n) for a, n in zip(starts, group.rows, strict=True)]


def _refresh_due(
    root: Root, group: Group, turns: np.ndarray, turn: Any, first: Any, factors: list[Factor], derived: list[Any]
) -> Any:
    """Pick the roots that are due in a turn (numbered through the group) from their stacks, and refresh them."""
    slots = jnp.asarray(turns)[turn]
    places = _places(group, slots)

    def pick(*stacks: jax.Array) -> jax.Array:
        picked = [x.at[p].get(mode="fill", fill_value=0) for x, p in zip(stacks, places, strict=True)]
        return functools.reduce(jnp.add, picked)

    old = jax.tree.map(pick, *derived)

    def work() -> Any:
        return root.refresh(dense(jax.tree.map(pick, *factors)), old, group.power, first)

    # Fewer roots than steps in a period: in some steps none has its turn.
    always = np.all(np.min(turns, axis=1) < sum(group.rows))
    return work() if always else lax.cond(slots[0] < sum(group.rows), work, lambda: old)


def _turn_by_turn(
    due: Callable[..., Any], group: Group, period: int, factors: list[Factor], derived: list[Any]
) -> list[Any]:
    """All turns at once: what is compiled for one is all there is to compile."""
    rows = sum(group.rows)
    new = lax.map(lambda turn: due(turn, True, factors, derived), jnp.arange(min(period, rows)))
    # Root i of the group had the slot i // period in the turn i % period.
    new = jax.tree.map(lambda x: lax.collapse(jnp.swapaxes(x, 0, 1), 0, 2)[:rows], new)
    return _split(group, new)


def _put(group: Group, slots: jax.Array, derived: list[Any], new: Any) -> list[Any]:
    """The refreshed roots back into their stacks."""
    return [
        jax.tree.map(lambda x, n, p=p: x.at[p].set(n, mode="drop"), stack, new)
        for stack, p in zip(derived, _places(group, slots), strict=True)
    ]


def _by_section(function: Callable[..., Any], sections: int) -> Callable[..., Any]:
    """Call a function of stacks on each of so many sections by itself."""
    if sections == 1:
        return function

    def each(*trees: Any) -> Any:
        # No -1: what is kept of a diagonal factor may be empty.
        cut = jax.tree.map(lambda x: x.reshape(sections, x.shape[0] // sections, *x.shape[1:]), trees)
        return jax.tree.map(lambda x: lax.collapse(x, 0, 2), jax.vmap(function)(*cut))

    return each


def refresh_roots(
    root: Root,
    schedule: Refresh,
    step: jax.Array,
    factors: Sequence[Factor],
    derived: Sequence[Any],
    powers: Sequence[Power],
    going: jax.Array | None = None,
    sections: int = 1,
    share: Share = WHOLE,
) -> list[Any]:
    """What is derived from the factors, refreshed where it is due.

    Args:
      root: whose `refresh` to call.
      schedule: from `precond.every`.
      step: counted from 1.
      factors: `[N, d, d]` each, N and d their own; dense or packed.
      derived: what `root.init` or an earlier refresh made of each.
      powers: what the root needs for each.
      going: whether anything is to be done at all; None is yes.
      sections: each stack consists of so many of equal length, which stand on as many devices or on fewer. Turns, and
        whatever a root does for the matrices of a call together, belong to a section, so that no mesh changes them.
      share: `factors` are this device's part of what `derived` is all of: only what is refreshed is gathered.

    Returns:
      What is derived now; entries that are not due, as they were.
    """
    derived, mine = list(derived), share.own(list(derived))
    groups, everywhere = _groups(factors, powers, sections), sections
    if derived:
        everywhere *= jax.tree.leaves(derived)[0].shape[0] // jax.tree.leaves(mine)[0].shape[0]

    def of(group: Group, *lists: Sequence[Any]) -> list[list[Any]]:
        return [[x[i] for i in group.members] for x in lists]

    def filled(news: Sequence[list[Any]]) -> list[Any]:
        out = list(derived)
        for group, new in zip(groups, news, strict=True):
            for i, x in zip(group.members, new, strict=True):
                out[i] = x
        return out

    def nothing() -> list[Any]:
        return derived

    turns = [schedule.turns(sum(group.rows)) for group in groups]
    # Traced once, for the first step and for the others.
    dues = [jax.jit(functools.partial(_refresh_due, root, g, t)) for g, t in zip(groups, turns, strict=True)]

    def everything() -> list[Any]:
        part = "first" if schedule.stagger else "refresh"

        def one(group: Group, due: Callable[..., Any]) -> list[Any]:
            work = functools.partial(_refresh_all, root, group, step == schedule.start)
            if schedule.stagger:
                work = functools.partial(_turn_by_turn, due, group, schedule.period)
            with _named(part, schedule, group, due=sum(group.rows)):
                return _by_section(work, sections)(*of(group, factors, mine))

        with named(part):
            return filled(share.gather([one(group, due) for group, due in zip(groups, dues, strict=True)]))

    def turn() -> list[Any]:
        now = (step - schedule.start) % schedule.period

        def one(group: Group, due: Callable[..., Any], slots: int) -> Any:
            with _named("refresh", schedule, group, due=slots):
                return _by_section(functools.partial(due, now, False), sections)(*of(group, factors, mine))

        new = [one(group, due, t.shape[1]) for group, due, t in zip(groups, dues, turns, strict=True)]
        puts = [functools.partial(_put, group, jnp.asarray(t)[now]) for group, t in zip(groups, turns, strict=True)]
        arrived = zip(groups, puts, share.gather(new), strict=True)
        return filled([_by_section(put, everywhere)(*of(g, derived), x) for g, put, x in arrived])

    if not derived:
        return derived
    if schedule.stagger:
        stage = (step >= schedule.start).astype(jnp.int32) + (step > schedule.start)
        return lax.switch(stage if going is None else jnp.where(going, stage, 0), [nothing, everything, turn])
    due = schedule.everything(step)
    if going is not None:
        return lax.cond(due & going, everything, nothing)
    return everything() if schedule.period == 1 and schedule.start == 1 else lax.cond(due, everything, nothing)

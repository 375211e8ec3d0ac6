"""Refresh roots, the costly step, with one call for all factors of one size, over axes and stacks."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from precond.blocks import BlockInfo
from precond.control_flow import loop_between, run_if
from precond.engine.check_parts import check_like
from precond.engine.groups import RefreshGroup, groups_of, put_rows, take_rows, transported
from precond.engine.refresh_schedule import RefreshSchedule
from precond.linalg import Factor, dense
from precond.roots import Power, Root
from precond.scopes import named

__all__ = ["refresh_roots"]


def _by_row_group(function: Callable[..., Any], row_groups: int) -> Callable[..., Any]:
    """Apply a function of stacks to each row group by itself."""
    if row_groups == 1:
        return function

    def each(*trees: Any) -> Any:
        # No -1: the arrays that are kept of a diagonal factor may be empty.
        cut = jax.tree.map(lambda x: x.reshape(row_groups, x.shape[0] // row_groups, *x.shape[1:]), trees)
        return jax.tree.map(lambda x: lax.collapse(x, 0, 2), jax.vmap(function)(*cut))

    return each


def _refreshed(
    root: Root, group: RefreshGroup, turn: Any, first: Any, accept: Any, factors: Sequence[Any], derived: Sequence[Any]
) -> Any:
    """Derive the matrices that are due in a turn, `[due, ..]`; return the old ones unless `accept`."""
    old = take_rows(group, turn, derived, lambda rows: _padded(root, group, rows, "derived"))

    def work() -> Any:
        due = take_rows(group, turn, factors, lambda rows: _padded(root, group, dense(rows), "factor"))
        new = root.refresh(due, old, group.power, first)
        check_like("root.refresh", new, old)
        return new

    # Fewer roots than turns: in some turns none is due.
    new = work() if group.turns <= group.roots else run_if(turn < group.roots, work, lambda: old)
    return jax.tree.map(lambda x, y: jnp.where(accept, x, y), new, old)


def _padded(root: Root, group: RefreshGroup, rows: Any, kind: str) -> Any:
    """Pad rows to the size of the group."""
    return getattr(root.padding, kind)(rows, group.size) if group.padded else rows


def _cropped(root: Root, group: RefreshGroup, rows: Any, like: Any) -> Any:
    """Crop rows to the size of a stack."""
    return root.padding.crop(rows, like) if group.padded and root.padding is not None else rows


def refresh_roots(
    root: Root,
    schedule: RefreshSchedule,
    step: jax.Array,
    factors: Sequence[Factor],
    derived: Sequence[Any],
    powers: Sequence[Power],
    blocks: BlockInfo,
    moments: Sequence[Any] = (),
    places: Sequence[tuple[int, int]] = (),
) -> tuple[list[Any], list[Any]]:
    """Refresh the roots that are due.

    One loop over turns does it: all turns at the first step, one turn at a later step, none if nothing is due. Each
    turn takes its rows, refreshes them and puts them back in place, so that the program of a method is compiled once
    for each size. The number of turns depends on the step alone. If no gradient is finite, the old rows are put back.

    Args:
      root: the root whose `refresh` to call.
      schedule: the result of `precond.every`.
      step: the number of the step, from 1.
      factors: arrays `[N, d, d]`, dense or packed, each with an N and a d of its own.
      derived: the matrices that `root.init` or an earlier refresh made of each factor.
      powers: the power that the root needs for each factor.
      blocks: the `BlockInfo` of the stacks. Turns, and the matrices that are passed in one call, belong to one of the
        `row_groups`, so that results do not depend on the mesh. With `root_collectives`, `factors` hold this device's
        rows and `derived` all rows, and only refreshed rows are gathered.
      moments: the `RootState.moments` of each stack, if the root has a `transport`.
      places: the stack and the axis of each factor.

    Returns:
      What is derived from each factor, and the moments of each stack; entries that are not due are as they were.
    """
    derived, moments, devices = list(derived), list(moments), blocks.root_collectives
    if not derived:
        return derived, moments
    turns = schedule.period if schedule.stagger else 1  # as many as there are, or one in which all roots are due
    groups = groups_of(root, factors, powers, blocks.row_groups, turns)
    accept = True if blocks.any_finite is None else blocks.any_finite

    # A device refreshes the due rows of its own row groups, and writes those of all devices with which it shares roots.
    my_row_groups, all_row_groups = blocks.row_groups, blocks.row_groups * devices.count

    def turn(now: Any, carry: tuple[list[Any], list[Any]], factors: Sequence[Factor]) -> tuple[list[Any], list[Any]]:
        derived, moments = carry
        mine, out = devices.local(derived), list(derived)
        for group in groups:
            with named("refresh", f"{group.due} of {group.roots}, every {schedule.period}"):
                work = functools.partial(_refreshed, root, group, now, step == schedule.start, accept)
                due = _by_row_group(work, my_row_groups)(group.of(factors), group.of(mine))
                write = functools.partial(put_rows, group, now, crop=functools.partial(_cropped, root, group))
                new = _by_row_group(write, all_row_groups)(group.of(derived), devices.all_gather(due))
                for i, x in zip(group.members, new, strict=True):
                    out[i] = x
                if root.transport is not None:
                    move = functools.partial(transported, root, group, now, places=group.of(places))
                    moments = _by_row_group(move, all_row_groups)(moments, group.of(derived), new)
        return out, moments

    if schedule.in_every_step:
        return turn(0, (derived, moments), factors)
    with named("turns"):
        given: Any = list(factors)
        return loop_between(*schedule.turns_due(step), turn, (derived, moments), given, most=turns)

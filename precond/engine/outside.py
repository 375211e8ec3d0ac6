"""Roots that are refreshed outside the step: what the engine keeps for whoever does it."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from precond.control_flow import run_if
from precond.engine.schedule import Refresh
from precond.roots import Root

__all__ = ["Engine", "OutsideState", "describing", "outside_state", "take"]


class OutsideState(NamedTuple):
    """What the engine keeps with `refresh=precond.on_host(N)`; an empty tuple stands there with any other.

    Attributes:
      taken: the count at which `factors` were taken, a multiple of N; 0 before the first.
      used: the same of those that the roots in use come from.
      failed: of each block of each stack, refreshes that failed or never took place, `[N]`.
      factors: as the statistics gave them.
    """

    taken: jax.Array
    used: jax.Array
    failed: Any
    factors: Any


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Engine:
    """What stands in place of an `OutsideState` while `describing`: that which no state can hold.

    Attributes:
      root: whose `refresh` to call.
      schedule: from `precond.every` or `precond.on_host`.
    """

    root: Root
    schedule: Refresh


_DESCRIBING: contextvars.ContextVar[bool] = contextvars.ContextVar("describing", default=False)


@contextlib.contextmanager
def describing() -> Iterator[None]:
    """While it lasts, `init` of an engine tells of which `Engine` it is.

    JAX keeps what it has traced of a function: to trace `init` meanwhile, make a new one of it (a lambda).

    Examples:
      >>> import precond
      >>> tx = precond.scale_by_kronecker(precond.kl(), precond.inverse_root(), refresh=precond.on_host(100))
      >>> with describing():
      ...     tx.init({"1x1": jnp.ones((1, 1, 1))}).outside.schedule.period
      100
    """
    token = _DESCRIBING.set(True)
    try:
        yield
    finally:
        _DESCRIBING.reset(token)


def outside_state(root: Root, schedule: Refresh, stacks: Any, factors: Any) -> Any:
    """The state before the first update.

    Args:
      root: the engine's.
      schedule: likewise.
      stacks: arrays `[N, d1, .., dk]`.
      factors: shapes and dtypes of what the statistics give.
    """
    if _DESCRIBING.get():
        return Engine(root, schedule)
    if not schedule.outside:
        return ()
    failed = jax.tree.map(lambda stack: jnp.zeros(stack.shape[:1], jnp.int32), stacks)
    empty = jax.tree.map(lambda f: jnp.zeros(f.shape, f.dtype), factors)
    return OutsideState(jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32), failed, empty)


def take(schedule: Refresh, count: jax.Array, any_finite: Any, factors: Any, state: Any) -> Any:
    """The state with the newest factors, where it is time to take them.

    Args:
      schedule: the engine's.
      count: of the update, from 1.
      any_finite: whether the update counts; None is yes.
      factors: as the statistics gave them.
      state: an `OutsideState`.
    """
    due = count % schedule.period == 0
    due = due if any_finite is None else due & any_finite
    return run_if(due, lambda: state._replace(taken=count, factors=factors), lambda: state)

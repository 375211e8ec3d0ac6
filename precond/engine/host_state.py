"""What the engine keeps for roots that are refreshed outside of the step."""

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
from precond.trees import Factors, Stacks

__all__ = ["Engine", "HostState", "capture", "describing", "host_state"]


class HostState(NamedTuple):
    """What the engine keeps with `refresh=precond.on_host(N)`; an empty tuple stands there with any other.

    Attributes:
      captured_at: the update after which `factors` were copied, a multiple of N; 0 before the first copy.
      in_use_from: the update whose factors the roots in use were computed from; 0 before there are any.
      failed: of each block of each stack, refreshes that failed or never took place, `[N]`.
      unserved: how often in a row factors took the place of others that nobody had taken.
      factors: as the statistics gave them.
    """

    captured_at: jax.Array
    in_use_from: jax.Array
    failed: Stacks
    unserved: jax.Array
    factors: Factors


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Engine:
    """Stand in place of a `HostState` while `describing`, with values that no state can hold.

    Attributes:
      root: the root whose `refresh` to call.
      schedule: from `precond.every` or `precond.on_host`.
    """

    root: Root
    schedule: Refresh


_DESCRIBING: contextvars.ContextVar[bool] = contextvars.ContextVar("describing", default=False)


@contextlib.contextmanager
def describing() -> Iterator[None]:
    """Let every `init` of an engine inside this context put its `Engine` into the state.

    JAX keeps what it has traced of a function: to trace `init` meanwhile, make a new one of it (a lambda).

    Examples:
      >>> import precond
      >>> tx = precond.scale_by_kronecker(
      ...     precond.kl(), precond.inverse_root(), refresh=precond.on_host(100)
      ... )
      >>> with describing():
      ...     tx.init({"1x1": jnp.ones((1, 1, 1))}).host.schedule.period
      100
    """
    token = _DESCRIBING.set(True)
    try:
        yield
    finally:
        _DESCRIBING.reset(token)


def host_state(root: Root, schedule: Refresh, stacks: Stacks, factors: Factors) -> Any:
    """Return the state before the first update.

    Args:
      root: the engine's.
      schedule: the engine's.
      stacks: arrays `[N, d1, .., dk]`.
      factors: shapes and dtypes of what the statistics give.
    """
    if _DESCRIBING.get():
        return Engine(root, schedule)
    if not schedule.on_host:
        return ()
    failed = jax.tree.map(lambda stack: jnp.zeros(stack.shape[:1], jnp.int32), stacks)
    empty = jax.tree.map(lambda f: jnp.zeros(f.shape, f.dtype), factors)
    captured_at, in_use_from, unserved = (jnp.zeros([], jnp.int32) for _ in range(3))
    return HostState(captured_at, in_use_from, failed, unserved, empty)


def capture(
    schedule: Refresh, count: jax.Array, any_finite: jax.Array | None, factors: Factors, state: HostState
) -> HostState:
    """Return the state with the newest factors if it is time to capture them, else the same state.

    Args:
      schedule: the engine's.
      count: of the update, from 1.
      any_finite: whether the update counts; None is yes.
      factors: as the statistics gave them.
      state: a `HostState`.
    """
    due = count % schedule.period == 0
    due = due if any_finite is None else due & any_finite
    unserved = jnp.where(state.captured_at > state.in_use_from, state.unserved + 1, 0)
    newest = state._replace(captured_at=count, factors=factors, unserved=unserved)
    return run_if(due, lambda: newest, lambda: state)

"""Hold the state of roots that are refreshed outside of the step."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from precond.control_flow import run_if
from precond.engine.refresh_schedule import RefreshSchedule
from precond.roots import Root
from precond.trees import Factors, Stacks

__all__ = ["EngineDescription", "HostState", "capture", "describing", "host_state"]


class HostState(NamedTuple):
    """Hold what the engine keeps with `refresh=precond.on_host(N)`; with another schedule it keeps an empty tuple.

    Attributes:
      captured_at: the update after which `factors` were copied, a multiple of N; 0 before the first copy.
      in_use_from: the update whose factors the roots in use were computed from; 0 before there are any.
      failed: the number of refreshes of each block that failed or never took place, `[N]` by stack.
      unserved: the number of consecutive copies each of which replaced factors whose roots never came into use.
      factors: the copied factors, as the statistics gave them.
    """

    captured_at: jax.Array
    in_use_from: jax.Array
    failed: Stacks
    unserved: jax.Array
    factors: Factors


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class EngineDescription:
    """Replace a `HostState` while `describing`, and hold values that no state can hold.

    Attributes:
      root: the root whose `refresh` to call.
      schedule: the result of `precond.every` or `precond.on_host`.
    """

    root: Root
    schedule: RefreshSchedule


_DESCRIBING: contextvars.ContextVar[bool] = contextvars.ContextVar("describing", default=False)


@contextlib.contextmanager
def describing() -> Iterator[None]:
    """Make every `init` of an engine inside this context put its `EngineDescription` into the state.

    JAX caches traces by function. To trace `init` inside this context, trace a new lambda that calls it.

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


def host_state(root: Root, schedule: RefreshSchedule, stacks: Stacks, factors: Factors) -> Any:
    """Return the state before the first update.

    Args:
      root: the engine's root.
      schedule: the engine's schedule.
      stacks: arrays `[N, d1, .., dk]`.
      factors: the shapes and dtypes of what the statistics give.
    """
    if _DESCRIBING.get():
        return EngineDescription(root, schedule)
    if not schedule.on_host:
        return ()
    failed = jax.tree.map(lambda stack: jnp.zeros(stack.shape[:1], jnp.int32), stacks)
    empty = jax.tree.map(lambda f: jnp.zeros(f.shape, f.dtype), factors)
    captured_at, in_use_from, unserved = (jnp.zeros([], jnp.int32) for _ in range(3))
    return HostState(captured_at, in_use_from, failed, unserved, empty)


def capture(
    schedule: RefreshSchedule, count: jax.Array, any_finite: jax.Array | None, factors: Factors, state: HostState
) -> HostState:
    """Return the state with the newest factors if it is time to capture them, else the same state.

    Args:
      schedule: the engine's schedule.
      count: the number of the update, from 1.
      any_finite: whether the update counts; None means that it does.
      factors: the factors, as the statistics gave them.
      state: a `HostState`.
    """
    due = count % schedule.period == 0
    due = due if any_finite is None else due & any_finite
    unserved = jnp.where(state.captured_at > state.in_use_from, state.unserved + 1, 0)
    newest = state._replace(captured_at=count, factors=factors, unserved=unserved)
    return run_if(due, lambda: newest, lambda: state)

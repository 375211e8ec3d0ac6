"""Refresh all roots of an engine once, in float64, by a task for every matrix."""

import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple

import jax
import numpy as np

from precond.engine import KroneckerState
from precond.host.rows import Leaving, arrived, leave, put
from precond.linalg import dense
from precond.roots import Root, RootState, powers_of

__all__ = ["Job", "Kernel", "begin", "cancel", "finish", "kernel_of", "unfinished"]

_LOG = logging.getLogger("precond")

Kernel = Callable[[Any, Any, Any, bool], Any]
"""From a factor, what was derived from it before, its power and whether this is the first refresh, all of one matrix
and in numpy's arrays, to what is derived from it now, in float64."""


class Work(NamedTuple):
    """Hold the work for one axis of one stack.

    Attributes:
      stack: the index of the stack.
      axis: the index of the axis, from 0.
      leaving: the copies of the factors and of the roots that were derived from them before, and the number of failed
        refreshes of each block.
      futures: the futures of the pieces that this process has, by the first row of the piece, with one future for each
        row.
    """

    stack: int
    axis: int
    leaving: Leaving
    futures: dict[int, list[Future[Any]]]


class Job(NamedTuple):
    """Hold a refresh on its way.

    Attributes:
      taken: the count at which its factors were taken.
      used: the count at which the factors were taken from which the roots in use meanwhile were computed.
      works: the works, one for each axis of each stack.
    """

    taken: int
    used: int
    works: list[Work]


def kernel_of(root: Root) -> Kernel:
    """Compile a root's own `refresh` in float64 for the CPU.

    Examples:
      >>> from precond import inverse_root
      >>> root, factor = inverse_root(), np.full((1, 1, 1), 16.0, np.float32)
      >>> kernel_of(root)(
      ...     factor, root.init(None, (factor,)).derived[0], 0.25, True
      ... ).matrix.dtype
      dtype('float64')
    """
    device = jax.local_devices(backend="cpu")[0]
    run = jax.jit(lambda factor, old, power, first: root.refresh(dense(factor), old, power, first), static_argnums=2)

    def wide(tree: Any) -> Any:
        return jax.tree.map(lambda x: np.asarray(x, np.float64 if x.dtype == np.float32 else x.dtype), tree)

    def kernel(factor: Any, old: Any, power: Any, first: bool) -> Any:
        # Threads have configurations of their own: neither touches that of the training loop.
        with jax.enable_x64(True), jax.default_device(device):
            out = jax.device_get(run(wide(factor), wide(old), power, np.asarray(first)))
        if not all(np.all(np.isfinite(x)) for x in jax.tree.leaves(out)):
            raise ArithmeticError("a root that was computed on the host is not finite")
        return out

    return kernel


def _row(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda x: x[i : i + 1], tree)


def _stacks(state: KroneckerState) -> tuple[list[Any], list[RootState], list[Any], Any]:
    """Return the captured factors, roots and failures of each stack, and a way to put stacks together again."""
    roots, treedef = jax.tree.flatten(state.roots, is_leaf=lambda x: isinstance(x, RootState))
    factors, failed = map(treedef.flatten_up_to, (state.host.factors, state.host.failed))
    return factors, roots, failed, treedef


def begin(state: KroneckerState, root: Root, kernel: Kernel, pool: Executor, *, taken: int, used: int) -> Job:
    """Start to refresh all roots from the factors that were taken.

    Args:
      state: the state of the engine.
      root: the root of the engine.
      kernel: the kernel of the root.
      pool: the pool of threads that computes.
      taken: `captured_at` of the state, on the host.
      used: `in_use_from` of the state, on the host.
    """
    works = []
    for stack, (factors, roots, failed) in enumerate(zip(*_stacks(state)[:3], strict=True)):
        powers = iter(powers_of(root, factors))
        for axis, (factor, old) in enumerate(zip(factors, roots.derived, strict=True)):
            if factor is not None:
                power = next(powers)
                leaving = leave((factor, old, failed))

                def task(start: int, i: int, leaving: Leaving = leaving, power: Any = power) -> Any:
                    factor, old, _ = leaving.piece(start)
                    return kernel(_row(factor, i), _row(old, i), power, used == 0)

                futures = {
                    start: [pool.submit(task, start, i) for i in range(rows)] for start, rows in leaving.rows.items()
                }
                works.append(Work(stack, axis, leaving, futures))
    return Job(taken, used, works)


def _results(work: Work, start: int) -> tuple[Any, np.ndarray]:
    """Return the roots of one piece, and which of its rows failed and keep their old roots."""
    _, old, _ = work.leaving.piece(start)
    rows, failed = [], []
    for i, future in enumerate(work.futures[start]):
        try:
            rows.append(future.result())
        except Exception as error:
            # If a worker fails, for any reason, training goes on with the root that there is.
            _LOG.warning("A root was not refreshed, the last one stays in use: %s: %s", type(error).__name__, error)
            rows.append(_row(old, i))
        failed.append(future.exception() is not None)
    return jax.tree.map(lambda *x: np.concatenate(x), *rows), np.asarray(failed, np.int32)


def finish(state: KroneckerState, job: Job, root: Root) -> KroneckerState:
    """Wait for a job, and return the engine's state with its roots.

    Args:
      state: the state of the engine, with the roots that the job began with.
      job: the job that `begin` returned.
      root: the engine's.
    """
    _, roots, failed, treedef = _stacks(state)
    derived = [list(r.derived) for r in roots]
    counts: list[dict[int, np.ndarray]] = [{} for _ in roots]
    for work in job.works:
        pieces = {start: _results(work, start) for start in work.leaving.rows}
        derived[work.stack][work.axis] = arrived(
            derived[work.stack][work.axis], {start: new for start, (new, _) in pieces.items()}
        )
        for start, (_, lost) in pieces.items():
            before = counts[work.stack].get(start, work.leaving.piece(start)[2])
            counts[work.stack][start] = before + lost
    roots = [_moved(root, r, tuple(d)) for r, d in zip(roots, derived, strict=True)]
    failed = [put(f, rows) if rows else f for f, rows in zip(failed, counts, strict=True)]
    used = put(state.host.in_use_from, {0: np.asarray(job.taken)})
    host = state.host._replace(in_use_from=used, failed=treedef.unflatten(failed))
    return state._replace(roots=treedef.unflatten(roots), host=host)


def _moved(root: Root, state: RootState, derived: tuple[Any, ...]) -> RootState:
    """Return a stack's state with new roots, and with the moments that belong to them."""
    moments = state.moments
    if root.transport is not None:
        along = jax.jit(root.transport, static_argnums=3)
        for axis, (old, new) in enumerate(zip(state.derived, derived, strict=True)):
            moments = moments if old is None else along(moments, old, new, axis)
    return state._replace(derived=derived, moments=moments)


def cancel(job: Job) -> None:
    """Begin no more of its tasks.

    Args:
      job: the job that `begin` returned.
    """
    for work in job.works:
        for futures in work.futures.values():
            for future in futures:
                future.cancel()


def unfinished(job: Job) -> int:
    """Count the tasks that are not done.

    Args:
      job: the job that `begin` returned.
    """
    return sum(not future.done() for work in job.works for futures in work.futures.values() for future in futures)

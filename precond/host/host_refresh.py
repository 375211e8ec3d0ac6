"""Refresh roots around a training loop: begin at one boundary, compute beside training, and use them from the next."""

import os
from concurrent.futures import Executor, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from precond.arguments import check_whole, described
from precond.boxes import boxed_like, unboxed
from precond.engine import EngineDescription, KroneckerState, describing
from precond.host.job import Job, begin, cancel, finish, kernel_of, unfinished
from precond.host.rows import put
from precond.roots import Axis, Root
from precond.trees import find_nodes

__all__ = ["HostRefresh", "host_refresh"]

State = TypeVar("State")


class _Slot:
    """Hold the facts of one engine between two looks at its state."""

    def __init__(self, engine: EngineDescription) -> None:
        self.root, self.period = engine.root, engine.schedule.period
        self.kernel = kernel_of(engine.root)
        self.seen: int | None = None
        self.job: Job | None = None

    def forget(self) -> None:
        if self.job is not None:
            cancel(self.job)
        self.job = None

    def serve(self, state: KroneckerState, calls: int, updates: int, pool: Executor) -> tuple[KroneckerState, int]:
        """Return the state with the roots that are due, and the number of calls until something is due again."""
        count, taken, used = _numbers(state)
        if self.seen is not None and count > self.seen + calls * updates:
            raise ValueError(
                f"The state has seen {count - self.seen} updates, where at most {calls * updates} were expected: call "
                "the refresh before every update, or pass host_refresh(updates=...), how many there may be between two "
                "calls. Another run needs a host_refresh of its own."
            )
        if self.job is not None and (self.job.taken, self.job.used) != (taken, used):
            self.forget()  # the state is not that of the run before
        if taken - used > self.period:
            state, used = _lost(state, taken - self.period), taken - self.period
        if self.job is None and taken > used:
            self.job = begin(state, self.root, self.kernel, pool, taken=taken, used=used)
        left = self.period - count % self.period
        if self.job is not None:
            left = taken + self.period - updates - count
            if left <= 0:  # the next updates may take other factors: these must have come home
                state, self.job, left = finish(state, self.job, self.root), None, self.period - count % self.period
        self.seen = count
        return state, max(1, -(-left // updates))


def _numbers(state: KroneckerState) -> list[int]:
    numbers = (state.count, state.host.captured_at, state.host.in_use_from)
    if state.count.ndim:
        raise ValueError(
            f"The state's count has the shape {state.count.shape}, as after jax.vmap(tx.init): give host_refresh the "
            "state of one model at a time."
        )
    return [int(np.asarray(x)) for x in numbers]


def _lost(state: KroneckerState, used: int) -> KroneckerState:
    """Count factors that were replaced before a worker took them as a refresh that failed."""
    failed = jax.tree.map(lambda x: x + 1, state.host.failed)
    mark = put(state.host.in_use_from, {0: np.asarray(used)})
    return state._replace(host=state.host._replace(in_use_from=mark, failed=failed))


class HostRefresh:
    """Refresh roots on the host: a function from state to state, and a context that ends its threads."""

    def __init__(self, engines: list[EngineDescription], pool: Executor, updates: int) -> None:
        self._slots, self._pool, self._updates = [_Slot(e) for e in engines], pool, updates
        self._calls, self._wait = 0, 1

    def __call__(self, state: State) -> State:
        """Return the state, with new roots once in N updates; in all other calls it is the same object."""
        self._calls += 1
        if self._calls < self._wait:
            return state
        leaves, treedef = jax.tree.flatten(state, is_leaf=lambda x: isinstance(x, KroneckerState))
        places = [i for i, x in enumerate(leaves) if isinstance(x, KroneckerState) and x.host != ()]
        if len(places) != len(self._slots):
            raise ValueError(
                f"The state has {len(places)} parts that are refreshed on the host, where tx has {len(self._slots)}: "
                "pass the state of the same optimizer, or what has it in it."
            )
        left = []
        for slot, i in zip(self._slots, places, strict=True):
            served, calls = slot.serve(unboxed(leaves[i]), self._calls, self._updates, self._pool)
            leaves[i] = boxed_like(served, leaves[i])
            left.append(calls)
        self._calls, self._wait = 0, min(left)
        return treedef.unflatten(leaves)

    @property
    def pending(self) -> int:
        """Matrices that are not done: to look at, for nothing else depends on it."""
        return sum(unfinished(slot.job) for slot in self._slots if slot.job is not None)

    def close(self) -> None:
        """Forget what is on its way, and end the threads."""
        for slot in self._slots:
            slot.forget()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@described()
def host_refresh(
    tx: optax.GradientTransformation, params: Any, *, workers: int | Executor | None = None, updates: int = 1
) -> HostRefresh:
    r"""Refresh roots in float64 on the host's cores, while training goes on.

    For an optimizer with `refresh=precond.on_host(N)`, wherever in it that stands. After update $kN$ its factors
    $F_{kN}$ start to leave the device; threads compute what the root derives from them; before update $(k+1)N$ it comes
    back, and is in use until the next does:

    $$R_t = \mathrm{refresh}(F_{kN}) \quad \text{in the updates} \quad (k+1)N \le t < (k+2)N$$

    so that factors are N to 2 N - 1 updates old when they are used, and no number depends on how fast the host is: a
    slow one is waited for. Before update 2 N roots are the identity. Each matrix is refreshed by the root's own
    `refresh` and method, compiled for the CPU in float64, where LAPACK decomposes it, with its certificate and guard.

    What is on its way is a function of the state: the factors taken, the roots in use, and their counts. A run that is
    restored from a checkpoint begins it again and goes on bit for bit, with a new `host_refresh`. Where a worker
    fails, or its result is not finite, the root in use stays, which `precond.metrics` counts (`host/failed`) and the
    logger `precond` tells. Each process works on the blocks that its own devices keep.

    Args:
      tx: the optimizer.
      params: those it is for, or their shapes and dtypes.
      workers: the number of threads, or a pool of threads (`concurrent.futures`), which `close` shuts down; None is
        half the machine's cores.
      updates: the number of updates that the loop makes at most between two calls, as with `jax.lax.scan` over steps.
        Roots come back that much earlier.

    Returns:
      A function from the optimizer's state, or a tree with it in it (as Flax's `TrainState`), to the same with new
      roots: to be called before every update, outside `jax.jit`. It returns at once but for the first call and two in
      N, which wait for the update before. It belongs to one run; it is a context manager, and has `close`.

    Raises:
      ValueError: where nothing in `tx` has `refresh=precond.on_host(..)`; for hyperparameters of the root that are
        injected; and in a call for a state of something else, or with more updates than `updates`.
      TypeError: for a number of another type.

    Reference:
      Anil et al., Scalable Second Order Optimization for Deep Learning, 2020, section 4; Ba, Grosse and Martens,
      Distributed Second-Order Optimization using Kronecker-Factored Approximations, 2017, section 5.

    Examples:
      >>> import precond, jax.numpy as jnp
      >>> tx = precond.shampoo(1e-3, refresh=precond.on_host(2))
      >>> params = {"kernel": jnp.ones((4, 3))}
      >>> state, update = tx.init(params), jax.jit(tx.update, donate_argnums=1)
      >>> with host_refresh(tx, params, workers=1) as refresh:
      ...     for _ in range(5):
      ...         state = refresh(state)
      ...         updates, state = update(params, state)
      >>> precond.metrics(state)["host/staleness"].item()
      3
    """
    check_whole("updates", updates, least=1)
    if workers is None:
        workers = max(1, (os.cpu_count() or 2) // 2)
    if not isinstance(workers, Executor):
        check_whole("workers", workers, least=1)
        workers = ThreadPoolExecutor(workers, thread_name_prefix="precond")
    with describing():
        described = jax.eval_shape(lambda p: tx.init(p), params)
    engines = [x.host for x in find_nodes(described, KroneckerState) if x.host.schedule.on_host]
    if not engines:
        raise ValueError("Nothing in tx is refreshed on the host: make it with refresh=precond.on_host(100).")
    for engine in engines:
        _check(engine.root)
    return HostRefresh(engines, workers, updates)


def _check(root: Root) -> None:
    """Raise unless the root can be used by itself."""

    def refresh(factor: jax.Array) -> Any:
        return root.refresh(
            factor, root.init(factor[0], (factor, factor)).derived[0], root.power(Axis(0, 2, 2)), jnp.asarray(True)
        )

    traced = jax.make_jaxpr(refresh)(jax.ShapeDtypeStruct((1, 2, 2), np.float32))
    if any(isinstance(x, Tracer) for x in traced.consts):
        raise ValueError(
            "A hyperparameter of the root is injected, which the host does not see: under optax.inject_hyperparams("
            "factory, ..), pass static_args=(*precond.static_args(factory), 'damping')."
        )

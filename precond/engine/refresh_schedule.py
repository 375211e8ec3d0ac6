"""Schedule the refreshes of roots, by the value that the engine's `refresh=` takes."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from precond.arguments import check_function, check_whole, described, shown

__all__ = ["RefreshSchedule", "as_schedule", "every", "on_host"]


class RefreshSchedule(NamedTuple):
    """Hold when roots are refreshed; `precond.every` and `precond.on_host` make it, and document its fields.

    With `on_host`, roots are never refreshed within an update.
    """

    period: int
    start: int
    phase: int
    stagger: bool
    delay: int
    warmup: int
    on_host: bool = False
    period_at: Callable[[jax.Array], jax.typing.ArrayLike] | None = None

    @property
    def in_every_step(self) -> bool:
        """Whether all roots are due in every step."""
        return self.period == self.start == 1 and self.period_at is None

    def turns_due(self, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the first turn that is due at a step (counted from 1), and the number after the last.

        With `stagger` a period has one turn for each step, and each turn refreshes an equal share of the roots. Without
        it there is one turn, which refreshes all.
        """
        first = step == self.start
        if not self.stagger:
            period = self.period if self.period_at is None else _whole(self.period_at(step - 1))
            due = first | ((step > self.start) & ((step - self.phase) % period == 0))
            return jnp.zeros_like(step), due.astype(jnp.int32)
        now = jnp.where(step > self.start, (step - self.start) % self.period, 0)
        return now, jnp.where(step > self.start, now + 1, jnp.where(first, self.period, 0))


def _whole(period: jax.typing.ArrayLike) -> jax.Array:
    return jnp.maximum(jnp.floor(period).astype(jnp.int32), 1)


@described()
def every(
    period: int | Callable[[jax.Array], jax.typing.ArrayLike],
    *,
    start: int = 1,
    phase: int | None = None,
    stagger: bool = False,
    delay: int = 0,
    warmup: int = 0,
) -> RefreshSchedule:
    """Refresh roots every `period` steps. Steps are counted from 1.

    Args:
      period: steps between two refreshes of a root; or a schedule of it, a function from the number of updates before
        this one. It is rounded down, and at least 1. `precond.plan` counts with its value at 0.
      start: the step of the first refresh, in which all roots have their turn. Before it they are the identity.
      phase: the offset of later refreshes, which are due where `(step - phase) % period == 0`; None counts from
        `start`. Meta's implementation has phase 0 with every `start`.
      stagger: whether, after the first refresh, every root has one turn in `period` steps, and the turns of roots of
        one size are spread evenly over the steps. Every step then costs about the same.
      delay: the number of steps by which roots lag. With 1, a step uses the roots from before it, and adds its gradient
        to statistics and roots afterwards, as SOAP does. So no gradient is preconditioned by a basis made from itself,
        and the refresh can run beside the next step. With 0, a step uses the newest roots.
      warmup: the number of first steps in which only the statistics see the gradient, and the update is zero (1 in the
        official SOAP). The momentum and the second moments of `precond.scale_by_kronecker` do not move. A momentum or a
        graft around it, which most aliases have, moves.

    Returns:
      A value for `refresh=` of `precond.scale_by_kronecker` and of the aliases.

    Raises:
      ValueError, TypeError: for a number out of range, or a phase or a schedule with `stagger`.

    Examples:
      >>> due = lambda schedule, step: tuple(
      ...     int(turn) for turn in schedule.turns_due(jnp.asarray(step))
      ... )
      >>> # At first all turns are due, then one in each step.
      >>> [due(every(20, stagger=True), step) for step in (1, 2, 3, 22)]
      [(0, 20), (1, 2), (2, 3), (1, 2)]
      >>> # Here all roots share one turn.
      >>> [due(every(4, start=5, phase=0), step) for step in (4, 5, 8, 9)]
      [(0, 0), (0, 1), (0, 1), (0, 0)]
      >>> # It refreshes in every step at first, then in every second one.
      >>> growing = every(lambda count: 1 + count // 3)
      >>> [due(growing, step)[1] for step in (1, 2, 3, 4, 5, 6)]
      [1, 1, 1, 0, 1, 0]
    """
    period_at = period if callable(period) else None
    if callable(period):
        check_function("period", period, 1, "a whole number, or a function from the number of updates to one")
        with jax.ensure_compile_time_eval():
            first = jnp.asarray(period(jnp.zeros([], jnp.int32)))
        if not first >= 0:
            raise ValueError(f"period={shown(period)}: gave {first} for the first step: must be at least 0.")
        period = int(_whole(first))
    check_whole("period", period, least=1)
    check_whole("start", start, least=1)
    check_whole("warmup", warmup, least=0)
    check_whole("delay", delay, least=0)
    if delay > 1:
        raise ValueError(f"delay={delay}: must be 0 (use the newest roots) or 1 (use those before this step).")
    if phase is not None:
        check_whole("phase", phase, least=0)
        if stagger:
            raise ValueError("phase= has no meaning with stagger=True, where every step refreshes some roots.")
    if stagger and period_at is not None:
        raise ValueError("stagger=True has a fixed number of turns, and a schedule of the period has not: choose one.")
    # With a period of one every root has its turn in every step.
    stagger = stagger and period > 1
    return RefreshSchedule(period, start, start if phase is None else phase, stagger, delay, warmup, False, period_at)


def as_schedule(refresh: RefreshSchedule | int, delay: int = 0, warmup: int = 0) -> RefreshSchedule:
    """Return the schedule that an argument `refresh=` means.

    Args:
      refresh: a schedule, or a number of steps between two refreshes of all roots at once.
      delay: the number of steps by which roots lag, for a number of steps; a schedule has its own.
      warmup: the number of first steps without an update, for a number of steps; a schedule has its own.

    Raises:
      ValueError, TypeError: for anything else.

    Examples:
      >>> as_schedule(10, delay=1) == every(10, delay=1)
      True
    """
    if isinstance(refresh, RefreshSchedule):
        return refresh
    check_whole("refresh", refresh, least=1)
    return every(refresh, delay=delay, warmup=warmup)


@described()
def on_host(period: int, *, warmup: int = 0) -> RefreshSchedule:
    """Leave the refresh to `precond.host_refresh`, which runs beside training on the cores of the host.

    After every `period` updates the engine keeps a copy of the factors in its state: half as many numbers as its roots
    have. Roots that the host computes from it are used `period` updates later. Before the first of these, roots are the
    identity. Without `precond.host_refresh` they stay the identity.

    Args:
      period: N, the number of updates between two copies.
      warmup: the number of first steps without an update, as in `precond.every`.

    Returns:
      A value for `refresh=` of `precond.scale_by_kronecker` and of the aliases.

    Raises:
      ValueError, TypeError: for a number out of range.

    Reference:
      Anil et al., Scalable Second Order Optimization for Deep Learning, 2020, section 4.

    Examples:
      >>> import precond
      >>> tx = precond.shampoo(1e-3, refresh=on_host(100))
    """
    check_whole("period", period, least=1)
    check_whole("warmup", warmup, least=0)
    return RefreshSchedule(period, 1, 1, False, 0, warmup, on_host=True)

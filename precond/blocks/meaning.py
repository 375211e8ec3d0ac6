"""Record what the numbers of a state mean, if names and shapes do not show it."""

import contextlib
import contextvars
from collections.abc import Iterator

from jax.typing import ArrayLike

__all__ = ["collect_meanings", "report_average", "report_meaning"]

_MEANINGS: contextvars.ContextVar[set[str] | None] = contextvars.ContextVar("meanings", default=None)


@contextlib.contextmanager
def collect_meanings() -> Iterator[set[str]]:
    """Collect the texts that `report_meaning` records inside this context.

    JAX caches traces by function. To trace `init` inside this context, trace a new lambda that calls it.

    Examples:
      >>> with collect_meanings() as meanings:
      ...     report_meaning("roots of the power 1/4")
      >>> meanings
      {'roots of the power 1/4'}
    """
    meanings: set[str] = set()
    token = _MEANINGS.set(meanings)
    try:
        yield meanings
    finally:
        _MEANINGS.reset(token)


def report_meaning(text: str) -> None:
    """Record what the numbers of a state mean, for `collect_meanings`; a state of another meaning is refused.

    Record a choice if a change of it makes the numbers useless until they are computed again. A change of the learning
    rate or the damping does not.

    Args:
      text: a few words, the same for the same meaning.

    Examples:
      >>> report_meaning("roots of the power 1/4")  # nothing is collected here
    """
    if (meanings := _MEANINGS.get()) is not None:
        meanings.add(text)


def report_average(what: str, decay: ArrayLike, *, debiased: bool) -> None:
    """Record that numbers are sums, or averages with the bias of their start. Debiased averages are not recorded.

    Args:
      what: the numbers that are summed or averaged, in the plural.
      decay: the decay; 1 sums. An array may have any value below 1.
      debiased: whether an average is kept free of its bias.

    Examples:
      >>> with collect_meanings() as meanings:
      ...     report_average("squares", 1.0, debiased=False)
      ...     report_average("factors", 0.9, debiased=True)
      >>> meanings
      {'sums of squares'}
    """
    if isinstance(decay, int | float) and decay == 1:
        report_meaning(f"sums of {what}")
    elif not debiased:
        report_meaning(f"averages of {what} with the bias of their start")

"""Record what the numbers of a state mean, if names and shapes do not show it."""

import contextlib
import contextvars
from collections.abc import Iterator

from jax.typing import ArrayLike

__all__ = ["hearing", "tell_average", "tell_meaning"]

_HEARD: contextvars.ContextVar[set[str] | None] = contextvars.ContextVar("heard", default=None)


@contextlib.contextmanager
def hearing() -> Iterator[set[str]]:
    """Collect the texts that `tell_meaning` records inside this context.

    JAX caches traces by function. To trace `init` inside this context, trace a new lambda that calls it.

    Examples:
      >>> with hearing() as heard:
      ...     tell_meaning("roots of the power 1/4")
      >>> heard
      {'roots of the power 1/4'}
    """
    heard: set[str] = set()
    token = _HEARD.set(heard)
    try:
        yield heard
    finally:
        _HEARD.reset(token)


def tell_meaning(text: str) -> None:
    """Record what the numbers of a state mean inside of `hearing`, so that a state of another meaning is refused.

    Record a choice if a change of it makes the numbers useless until they are computed again. A change of the learning
    rate or the damping does not.

    Args:
      text: a few words, the same for the same meaning.

    Examples:
      >>> tell_meaning("roots of the power 1/4")  # outside of `hearing` nothing happens
    """
    if (heard := _HEARD.get()) is not None:
        heard.add(text)


def tell_average(what: str, decay: ArrayLike, *, debiased: bool) -> None:
    """Record that numbers are sums, or averages with the bias of their start. Debiased averages are not recorded.

    Args:
      what: the numbers that are summed or averaged, in the plural.
      decay: the decay; 1 sums. An array may have any value below 1.
      debiased: whether an average is kept free of its bias.

    Examples:
      >>> with hearing() as heard:
      ...     tell_average("squares", 1.0, debiased=False)
      ...     tell_average("factors", 0.9, debiased=True)
      >>> heard
      {'sums of squares'}
    """
    if isinstance(decay, int | float) and decay == 1:
        tell_meaning(f"sums of {what}")
    elif not debiased:
        tell_meaning(f"averages of {what} with the bias of their start")

"""What the numbers of a state mean, where names and shapes do not show it."""

import contextlib
import contextvars
from collections.abc import Iterator

from jax.typing import ArrayLike

__all__ = ["hearing", "tell_average", "tell_meaning"]

_HEARD: contextvars.ContextVar[set[str] | None] = contextvars.ContextVar("heard", default=None)


@contextlib.contextmanager
def hearing() -> Iterator[set[str]]:
    """Collect what the numbers mean that every `init` inside this context makes.

    JAX keeps what it has traced of a function: to trace `init` meanwhile, make a new one of it (a lambda).

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
    """Record what the numbers of a state mean, where `hearing` asks for it. A state of another meaning is refused.

    Record a choice if a change of it makes the numbers useless until they are computed anew. A change of the learning
    rate or the damping does not.

    Args:
      text: a few words, the same for the same meaning.

    Examples:
      >>> tell_meaning("roots of the power 1/4")  # outside of `hearing` nothing happens
    """
    if (heard := _HEARD.get()) is not None:
        heard.add(text)


def tell_average(what: str, decay: ArrayLike, *, debiased: bool) -> None:
    """Record that numbers are sums, or averages with the bias of their start; other averages record nothing.

    Args:
      what: the numbers that are summed or averaged, in the plural.
      decay: 1 sums; an array may be anything below 1.
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

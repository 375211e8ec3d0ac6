"""What the numbers of a state mean, as far as neither their names nor their shapes tell it."""

import contextlib
import contextvars
from collections.abc import Iterator

from jax.typing import ArrayLike

__all__ = ["hearing", "tell_average", "tell_meaning"]

_HEARD: contextvars.ContextVar[set[str] | None] = contextvars.ContextVar("heard", default=None)


@contextlib.contextmanager
def hearing() -> Iterator[set[str]]:
    """Make a set to which every `init` inside this context adds what its numbers mean.

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
    """Tell who hears what the numbers of a state mean. A state of another meaning is refused.

    Tell what a change makes useless until it is computed anew. A learning rate or a damping is nothing of this kind.

    Args:
      text: a few words, the same for the same meaning.

    Examples:
      >>> tell_meaning("roots of the power 1/4")  # nobody hears
    """
    if (heard := _HEARD.get()) is not None:
        heard.add(text)


def tell_average(what: str, decay: ArrayLike, *, debiased: bool) -> None:
    """Tell whether something is a sum, or an average with the bias of its start; other averages tell nothing.

    Args:
      what: of which there is a sum or an average.
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

"""Checks of what a user typed, with messages that say what, why and what to do. Floor 0 of the library."""

from typing import Any

import jax

__all__ = ["STATIC_ARGS", "check_number", "check_whole"]

STATIC_ARGS = ("block_size", "refresh", "views", "mask")
"""Arguments of every alias that cannot be injected: `optax.inject_hyperparams(alias, precond.STATIC_ARGS)`."""


def check_whole(name: str, value: Any, least: int) -> None:
    """Raise unless `value` is a Python integer of at least `least`.

    Raises:
      TypeError: for a traced value, or one that is no integer.
      ValueError: for one that is too small.

    Examples:
      >>> check_whole("block_size", 0, least=1)
      Traceback (most recent call last):
      ValueError: block_size=0: must be at least 1.
    """
    if isinstance(value, jax.Array):
        raise TypeError(
            f"{name} is an array, but it sets shapes or schedules and must be a Python integer. Under "
            f"optax.inject_hyperparams, pass static_args=precond.STATIC_ARGS."
        )
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}={value!r}: must be a Python integer of at least {least}.")
    if value < least:
        raise ValueError(f"{name}={value}: must be at least {least}.")


def check_number(name: str, value: Any, low: float, high: float | None = None, *, advice: str = "") -> None:
    """Raise if `value` is a Python number outside `[low, high]`; arrays, whose values may be traced, pass.

    Raises:
      TypeError: for what is no number.
      ValueError: for a number out of range, or one that is not a number.

    Examples:
      >>> check_number("decay", 1.5, 0, 1, advice="1 sums, less than 1 averages.")
      Traceback (most recent call last):
      ValueError: decay=1.5: must lie between 0 and 1. 1 sums, less than 1 averages.
    """
    if isinstance(value, jax.Array):
        return
    if isinstance(value, bool) or (not isinstance(value, (int, float)) and not hasattr(value, "__float__")):
        raise TypeError(f"{name}={value!r}: must be a number. {advice}".strip())
    if not (low <= value and (high is None or value <= high)):
        bounds = f"be at least {low}" if high is None else f"lie between {low} and {high}"
        raise ValueError(f"{name}={value}: must {bounds}. {advice}".strip())

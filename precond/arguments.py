"""Checks of what a user typed, with messages that say what, why and what to do. Floor 0 of the library."""

import math
from typing import Any

import jax

__all__ = [
    "STATIC_ARGS",
    "check_decay",
    "check_number",
    "check_part",
    "check_rate",
    "check_transformation",
    "check_whole",
]

STATIC_ARGS = ("block_size", "refresh", "views", "mask")
"""Arguments of every alias that cannot be injected: `optax.inject_hyperparams(alias, precond.STATIC_ARGS)`."""


def check_whole(name: str, value: Any, least: int) -> None:
    """Raise unless `value` is a Python integer of at least `least`.

    Raises:
      TypeError: for a traced value, or one that is not an integer.
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
      TypeError: for anything but a number.
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


def check_decay(name: str, value: Any) -> None:
    """Raise unless a Python number can be the decay of a momentum: at least 0, and below 1.

    Raises:
      TypeError: for anything but a number.
      ValueError: for a number out of range.

    Examples:
      >>> check_decay("b1", 1.0)
      Traceback (most recent call last):
      ValueError: b1=1.0: must be below 1, or the average never leaves its start.
    """
    check_number(name, value, 0, 1)
    if not isinstance(value, jax.Array) and value == 1:
        raise ValueError(f"{name}={value}: must be below 1, or the average never leaves its start.")


def check_rate(name: str, value: Any) -> None:
    """Raise unless `value` is a schedule, or a number that can be a learning rate: at least 0, and finite.

    Raises:
      TypeError: for anything else.
      ValueError: for a number out of range.

    Examples:
      >>> check_rate("learning_rate", -1.0)
      Traceback (most recent call last):
      ValueError: learning_rate=-1.0: must be at least 0.
    """
    if callable(value):
        return
    check_number(name, value, 0)
    if not isinstance(value, jax.Array) and value == math.inf:
        raise ValueError(f"{name}={value}: must be finite.")


def check_part(name: str, value: Any, kind: type, example: str) -> None:
    """Raise unless `value` is a part of this kind.

    Raises:
      TypeError: saying which there are, and that a function which makes one is to be called.

    Examples:
      >>> check_part("steps", "3", int, "3")
      Traceback (most recent call last):
      TypeError: steps='3': must be of type int, such as 3.
    """
    if not isinstance(value, kind):
        call = " Call this function." if callable(value) else ""
        raise TypeError(f"{name}={value!r}: must be of type {kind.__name__}, such as {example}.{call}")


def check_transformation(name: str, value: Any) -> None:
    """Raise unless `value` is an Optax transformation.

    Raises:
      TypeError: saying so, and that a function which makes one is to be called.

    Examples:
      >>> check_transformation("otherwise", "adam")
      Traceback (most recent call last):
      TypeError: otherwise='adam': must be an Optax transformation, such as optax.scale_by_adam().
    """
    if not (hasattr(value, "init") and hasattr(value, "update")):
        call = " Call this function." if callable(value) else ""
        raise TypeError(f"{name}={value!r}: must be an Optax transformation, such as optax.scale_by_adam().{call}")

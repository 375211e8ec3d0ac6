"""Check what a user's functions take and what they return."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from precond.arguments.shown import shown

__all__ = ["called", "check_function", "check_result", "takes"]


def takes(function: Callable[..., Any], count: int, *, more: bool = False) -> bool:
    """Return whether a function can be called with so many arguments; True where its signature is not known.

    Args:
      function: a function.
      count: the number of arguments by position.
      more: whether it may need others, by name.

    Examples:
      >>> takes(len, 1), takes(lambda: 3, 1)
      (True, False)
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    named = [p.name for p in signature.parameters.values() if p.kind == p.KEYWORD_ONLY and p.default is p.empty]
    try:
        signature.bind(*range(count), **dict.fromkeys(named if more else ()))
    except TypeError:
        return False
    return True


def check_function(name: str, value: Any, count: int, example: str) -> None:
    """Raise unless `value` can be called with so many arguments.

    Raises:
      TypeError: saying what it must be.

    Examples:
      >>> check_function("loss", 3, 2, "a function of outputs and arguments")
      Traceback (most recent call last):
      TypeError: loss=3: must be a function of outputs and arguments.
    """
    if not callable(value) or not takes(value, count):
        raise TypeError(f"{name}={shown(value)}: must be {example}.")


def check_result(name: str, function: Callable[..., Any], count: int) -> None:
    """Raise if a function of so many numbers, such as a schedule, gives anything but one number.

    It is traced once. What it raises itself is left to the call that needs it.

    Raises:
      TypeError: saying what it gave.
      ValueError: for NaN.

    Examples:
      >>> check_result("learning_rate", lambda step: None, 1)
      Traceback (most recent call last):
      TypeError: learning_rate=the function <lambda>: gave None, where one number belongs. If this function makes a ...
    """
    given = []
    try:
        jax.eval_shape(lambda *x: given.append(function(*x)), *[jax.ShapeDtypeStruct((), jnp.int32)] * count)
    except Exception:
        return
    (found,) = given
    number = isinstance(found, jax.Array | np.ndarray | np.generic | int | float) and not np.ndim(found)
    if not number or getattr(found, "dtype", np.dtype(float)).kind in "bcOSU":
        raise TypeError(
            f"{name}={shown(function)}: gave {shown(found)}, where one number belongs. If this function makes a "
            f"schedule, call it."
        )
    if isinstance(found, float) and found != found:
        raise ValueError(f"{name}={shown(function)}: gave {found}, where a number belongs.")


def called(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function that a user gave, which must take these arguments.

    Args:
      name: the name of the argument that the function was given as.
      function: the function to call.
      *args: the arguments by position.
      **kwargs: the arguments by name.

    Raises:
      TypeError: if it takes others.

    Examples:
      >>> called("root", lambda: 3, 1e-6, power=None)
      Traceback (most recent call last):
      TypeError: root=the function <lambda>: must take 1 argument and power=, with which it is called.
    """
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        words = [f"{len(args)} argument" + "s" * (len(args) > 1)] if args else []
        takes = " and ".join([*words, *(f"{key}=" for key in kwargs)]) or "no arguments"
        raise TypeError(f"{name}={shown(function)}: must take {takes}, with which it is called.") from None
    return function(*args, **kwargs)

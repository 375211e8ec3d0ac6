"""Warn of arguments that have no effect beside another one."""

from typing import Any

import jax

from precond.arguments.shown import shown

__all__ = ["check_idle"]


def check_idle(beside: str, /, **given: tuple[Any, Any]) -> None:
    """Raise if an argument was given that has no effect, because of another one.

    An array may come from `optax.inject_hyperparams`, which gives defaults as well, and is not looked at.

    Args:
      beside: the argument which leaves the others without effect, as the user types it: "momentum=".
      **given: the value and the default of each argument without effect, by its name.

    Raises:
      ValueError: for the first that is not the default.

    Examples:
      >>> check_idle("momentum=", b1=(0.9, 0.95))
      Traceback (most recent call last):
      ValueError: b1=0.9 has no effect beside momentum=. Leave one of the two out.
    """
    for name, (value, default) in given.items():
        if not isinstance(value, jax.Array) and value is not default and value != default:
            raise ValueError(f"{name}={shown(value)} has no effect beside {beside}. Leave one of the two out.")

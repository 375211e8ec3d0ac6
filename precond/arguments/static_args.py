"""Tell which arguments of a function set shapes, schedules or programs: these cannot be injected into a state."""

import inspect
from collections.abc import Callable
from typing import Any

import jax

from precond.arguments.check_types import is_number, kinds_of
from precond.arguments.shown import shown

__all__ = ["static_args"]


def static_args(factory: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the arguments that cannot be injected, for `static_args=` of `optax.inject_hyperparams`.

    Optax makes every number an array, and calls every function as a schedule. That is right for learning rates, decays
    and dampings, and wrong for block sizes, refreshes, powers, views and masks: these are named here.

    Args:
      factory: a function of this library that makes a transformation: `precond.shampoo`, `precond.kfac`, a recipe.

    Raises:
      TypeError: for anything but a function, such as the optimizer that it makes.

    Examples:
      >>> import optax, precond
      >>> {"block_size", "refresh", "power", "views", "mask"} <= {
      ...     *precond.static_args(precond.shampoo)
      ... }
      True
      >>> tx = optax.inject_hyperparams(precond.muon, precond.static_args(precond.muon))(
      ...     1e-3, block_size=64
      ... )
      >>> sorted(tx.init({"kernel": jax.numpy.ones((4, 3))}).hyperparams)[-1]
      'learning_rate'
    """
    if not callable(factory):
        raise TypeError(f"static_args() was given {shown(factory)}: it takes the function that makes it, uncalled.")
    parameters = inspect.signature(factory).parameters.values()
    return tuple(p.name for p in parameters if p.kind != p.VAR_KEYWORD and not _may_be_traced(p.annotation))


def _may_be_traced(annotation: Any) -> bool:
    return is_number(annotation) and jax.Array in kinds_of(annotation)

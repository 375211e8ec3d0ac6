"""Check single arguments of a user. Each message says the mistake, the reason and the remedy."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from precond.arguments.functions import takes
from precond.arguments.shown import is_function, shown

__all__ = [
    "check_betas",
    "check_bound",
    "check_choice",
    "check_decay",
    "check_flag",
    "check_floating",
    "check_mask",
    "check_number",
    "check_part",
    "check_rate",
    "check_transformation",
    "check_whole",
    "hint",
]


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
            f"optax.inject_hyperparams(factory, ..), pass static_args=precond.static_args(factory)."
        )
    if isinstance(value, bool) or not hasattr(value, "__index__") or np.ndim(value):
        raise TypeError(f"{name}={shown(value)}: must be a Python integer of at least {least}.{hint(value)}")
    if value < least:
        raise ValueError(f"{name}={value}: must be at least {least}.")
    if not isinstance(value, Tracer) and value >= 2**31:
        raise ValueError(f"{name}={value}: must be below 2**31, for it is counted in 32 bits.")


def check_number(name: str, value: Any, low: float, high: float | None = None, *, advice: str = "") -> None:
    """Raise if `value` is not a number, or is outside `[low, high]`; a value that `jax.jit` traces cannot be looked at.

    Without a `high` any finite number will do. An infinite one is allowed where `high` is infinite.

    Raises:
      TypeError: if `value` is not a number.
      ValueError: for a number out of range, or one that is not a number.

    Examples:
      >>> check_number("decay", 1.5, 0, 1, advice="1 sums, less than 1 averages.")
      Traceback (most recent call last):
      ValueError: decay=1.5: must lie between 0 and 1. 1 sums, less than 1 averages.
    """
    known = _number(name, value, advice)
    if known is not None and not (low <= known and (high is None or known <= high)):
        bounds = f"be at least {low}" if high in (None, math.inf) else f"lie between {low} and {high}"
        raise ValueError(f"{name}={value}: must {bounds}. {advice}".strip())
    if known == math.inf and high is None:
        raise ValueError(f"{name}={value}: must be finite. {advice}".strip())


def _number(name: str, value: Any, advice: str) -> float | None:
    """Return a number as a float, or None where its value is not known: while it is traced, or lies elsewhere."""
    wrong = isinstance(value, bool) or not (isinstance(value, (int, float)) or hasattr(value, "__float__"))
    wrong = wrong or isinstance(value, complex) or getattr(value, "dtype", np.dtype(float)).kind in "bcOSU"
    if not wrong and np.ndim(value):
        raise TypeError(f"{name}={shown(value)}: must be one number.")
    if wrong:
        raise TypeError(f"{name}={shown(value)}: must be a number.{hint(value)} {advice}".strip())
    if isinstance(value, Tracer) or (isinstance(value, jax.Array) and not value.is_fully_addressable):
        return None
    return float(str(value) if isinstance(value, int) else cast(float, value))  # a text that is too large is infinite


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
    if _number(name, value, "") == 1:
        raise ValueError(f"{name}={value}: must be below 1, or the average never leaves its start.")


def check_betas(betas: tuple[float, float]) -> None:
    """Raise unless the decays of a momentum and of a second moment lie between 0 and 1; 1 sums.

    Raises:
      ValueError: for the first one that does not.

    Examples:
      >>> check_betas((0.9, 1.5))
      Traceback (most recent call last):
      ValueError: betas[1]=1.5: must lie between 0 and 1.
    """
    for i, beta in enumerate(betas):
        check_number(f"betas[{i}]", beta, 0, 1)


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
        if isinstance(value, type) or not takes(value, 1) or _makes_optimizers(value):
            raise TypeError(
                f"{name}={shown(value)}: must be a number, or a schedule: a function of the step alone. "
                f"If this function makes a schedule, call it."
            )
        return
    if hasattr(value, "init") and hasattr(value, "update"):
        raise TypeError(f"{name}={shown(value)}: must be a number or a schedule. A transformation goes elsewhere.")
    check_number(name, value, 0)


def _makes_optimizers(function: Callable[..., Any]) -> bool:
    """Return whether a function is annotated as one that returns a transformation: `optax.adam`."""
    try:
        made = inspect.signature(function).return_annotation
    except (TypeError, ValueError):
        return False
    return "GradientTransformation" in (made if isinstance(made, str) else getattr(made, "__name__", ""))


def check_flag(name: str, value: Any) -> None:
    """Raise unless `value` is True or False.

    Raises:
      TypeError: for anything else, the words "yes" and "no" included.

    Examples:
      >>> check_flag("stagger", "yes")
      Traceback (most recent call last):
      TypeError: stagger='yes': must be True or False.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}={shown(value)}: must be True or False.")


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise unless `value` is one of these.

    Raises:
      ValueError: naming them.

    Examples:
      >>> check_choice("platform", "gpu", ("cpu", "cuda"))
      Traceback (most recent call last):
      ValueError: platform='gpu': must be one of 'cpu', 'cuda'.
    """
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        raise ValueError(f"{name}={shown(value)}: must be one of {', '.join(map(repr, choices))}.")


def check_mask(mask: Any, weight_decay: Any) -> None:
    """Raise unless `mask` says which parameters decay: a tree of booleans, or a function that makes one.

    Raises:
      TypeError: for a name, a list of names, or a tree of something else.
      ValueError: for a mask without a `weight_decay` that it could be for.

    Examples:
      >>> check_mask("kernel", 0.1)
      Traceback (most recent call last):
      TypeError: mask='kernel': must be a tree of booleans like the parameters, or a function from parameters to one.
    """
    if mask is None:
        return
    leaves = [mask] if isinstance(mask, str | type) else jax.tree.leaves(mask)
    good = isinstance(mask, type) is False and callable(mask) and takes(mask, 1)
    if not good and not (leaves and all(isinstance(x, bool | np.bool_ | jax.Array) for x in leaves)):
        raise TypeError(
            f"mask={shown(mask)}: must be a tree of booleans like the parameters, or a function from parameters to one."
        )
    if weight_decay is None:
        raise ValueError("mask= says which parameters decay, but there is no weight_decay=. Give both, or neither.")


def check_floating(name: str, dtype: Any) -> np.dtype:
    """Return a type of floating-point numbers; raise for anything else.

    Raises:
      TypeError: if it does not name a dtype, or names one that is not of floating point.

    Examples:
      >>> check_floating("dtype", "bf16")
      Traceback (most recent call last):
      TypeError: dtype='bf16': there is no such type. Pass one of floating-point numbers, such as jnp.bfloat16.
    """
    example = "Pass one of floating-point numbers, such as jnp.bfloat16."
    try:
        if isinstance(dtype, jax.Array | np.ndarray | np.number | tuple | list | dict):
            raise TypeError
        found = jax.dtypes.canonicalize_dtype(np.dtype(dtype))
    except TypeError:
        raise TypeError(f"{name}={shown(dtype)}: there is no such type. {example}") from None
    if dtype is None or not jnp.issubdtype(found, jnp.floating):
        raise TypeError(f"{name}={shown(dtype)}: its numbers are not of floating point. {example}")
    return found


def check_bound(axis: str | Sequence[str]) -> None:
    """Raise unless mesh axes of these names are bound where a program is traced.

    Raises:
      ValueError: naming the first that is not.

    Examples:
      >>> check_bound("data")
      Traceback (most recent call last):
      ValueError: axis='data': there is no such axis here. Call update inside jax.shard_map, jax.pmap or jax.vmap ...
    """
    for name in (axis,) if isinstance(axis, str) else axis:
        try:
            jax.lax.axis_size(name)
        except NameError:
            raise ValueError(
                f"axis={name!r}: there is no such axis here. Call update inside jax.shard_map, jax.pmap or jax.vmap "
                f"with an axis of this name. Under jax.jit alone, where arrays are whole, leave axis= out."
            ) from None


def hint(value: Any) -> str:
    """Return the advice to call a function, where one was given in place of what it makes.

    Args:
      value: anything.

    Examples:
      >>> hint(print), hint(3)
      (' Call this function.', '')
    """
    return " Call this function." if is_function(value) else ""


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
        raise TypeError(f"{name}={shown(value)}: must be of type {kind.__name__}, such as {example}.{hint(value)}")


def check_transformation(name: str, value: Any) -> None:
    """Raise unless `value` is an Optax transformation.

    Raises:
      TypeError: saying so, and that a function which makes one is to be called.

    Examples:
      >>> check_transformation("otherwise", "adam")
      Traceback (most recent call last):
      TypeError: otherwise='adam': must be an Optax transformation, such as optax.scale_by_adam().
    """
    if isinstance(value, type) or not (callable(getattr(value, "init", None)) and hasattr(value, "update")):
        example = "optax.scale_by_adam()"
        raise TypeError(f"{name}={shown(value)}: must be an Optax transformation, such as {example}.{hint(value)}")
    for what, arguments in (("init", ("params",)), ("update", ("updates", "state", "params"))):
        if not takes(getattr(value, what), len(arguments), more=what == "update"):
            raise TypeError(f"{name}= has the function {what}, which must take {', '.join(arguments)}, and does not.")

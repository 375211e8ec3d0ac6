"""Show values in one short line, in error messages and where parts are printed."""

import functools
import inspect
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

__all__ = ["is_function", "made", "maker", "shown"]

_LONGEST = 100


def shown(value: Any) -> str:
    """Return what a value is, in one line: never a tree of arrays, and never an address in memory.

    Args:
      value: anything that a user may have typed.

    Examples:
      >>> import optax
      >>> import jax.numpy as jnp
      >>> print(
      ...     shown({"kernel": jnp.ones((2, 3))}),
      ...     shown(optax.adam),
      ...     shown(optax.sgd(0.1)),
      ...     sep="; ",
      ... )
      a dict with the keys 'kernel'; the function adam; an Optax transformation
    """
    if isinstance(value, jax.Array | np.ndarray | jax.ShapeDtypeStruct) and value.ndim:
        return f"an array of shape {tuple(value.shape)} and {value.dtype}"
    if isinstance(value, Tracer):
        return "a traced array"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, _PLAIN) or _prints(value):
        text = repr(value)
        if len(text) <= _LONGEST and "\n" not in text and " at 0x" not in text:
            return text
    if hasattr(value, "init") and hasattr(value, "update"):
        return "an Optax transformation"
    if is_function(value):
        return f"the function {maker(value)}"
    if isinstance(value, Mapping):
        return f"a dict with the keys {_few([repr(key) for key in value])}" if value else "{}"
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        left, right = "[]" if isinstance(value, list) else "()"
        return left + _few([shown(x) for x in value]) + ("," if right == ")" and len(value) == 1 else "") + right
    if isinstance(value, str):
        return repr(value[: _LONGEST // 2]) + ".."
    return f"a value of type {type(value).__name__}"


_PLAIN = (bool, int, float, complex, str, bytes, np.generic, Fraction)


def _prints(value: Any) -> bool:
    """Return whether a value is of this library, whose values print in one line, or an array with one entry."""
    if isinstance(value, tuple) and any(isinstance(x, jax.Array | np.ndarray) for x in jax.tree.leaves(value)):
        return False
    own = type(value).__module__.partition(".")[0] == "precond" and type(value).__repr__ is not object.__repr__
    return own or isinstance(value, jax.Array | np.ndarray)


def _few(words: Sequence[str]) -> str:
    return ", ".join([*words[:3], ".."] if len(words) > 3 else words)


def is_function(value: Any) -> bool:
    """Return whether a value is a function, and not merely something that can be called.

    Args:
      value: anything.

    Examples:
      >>> is_function(shown), is_function(dict), is_function(3)
      (True, False, False)
    """
    return inspect.isroutine(value) or isinstance(value, functools.partial)


def maker(function: Any) -> str:
    """Return the name of a function, or of the function that it was made in.

    Args:
      function: anything that can be called.

    Examples:
      >>> from precond import relative
      >>> maker(shown), maker(relative(1e-6).ridge)
      ('shown', 'relative')
    """
    inner = getattr(function, "func", function)  # of a functools.partial
    name = getattr(inner, "__qualname__", type(inner).__name__).partition(".<locals>")[0]
    return name.rpartition(".")[2]


def made(value: Any) -> str:
    """Return how a tuple of functions prints: by the name of the function that made it.

    Args:
      value: a value of a type whose fields are functions.

    Examples:
      >>> from precond import inverse_root
      >>> made(inverse_root())
      'Root made by inverse_root()'
    """
    functions = [x for x in value if callable(x)]
    return f"{type(value).__name__} made by {maker(functions[0])}()" if functions else f"{type(value).__name__}()"

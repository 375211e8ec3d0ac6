"""Keep what was found out of a transformation, but not the transformation."""

import functools
import weakref
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import optax

__all__ = ["remembered"]

P = ParamSpec("P")
T = TypeVar("T")


def remembered(
    function: Callable[Concatenate[optax.GradientTransformationExtraArgs, P], T],
) -> Callable[Concatenate[optax.GradientTransformation, P], T]:
    """Keep the results of a function of a transformation, by weak references to its `init` and its `update`.

    The last 256 results are kept. If Python cannot refer weakly to one of them, or cannot hash an argument, the
    function is called every time. A call that raises is not cached.

    Args:
      function: a function of a transformation and of arguments that can be hashed.

    Examples:
      >>> calls = []
      >>> named = remembered(lambda tx, name: calls.append(name))
      >>> tx = optax.scale(2.0)
      >>> _ = [named(tx, name) for name in "aba"]
      >>> calls
      ['a', 'b']
    """

    @functools.lru_cache(maxsize=256)
    def kept(init: Callable[[], Any], update: Callable[[], Any], *rest: Any) -> T:
        return cast(Any, function)(optax.GradientTransformationExtraArgs(init(), update()), *rest)

    def call(tx: optax.GradientTransformation, *rest: Any) -> T:
        try:
            return kept(weakref.ref(tx.init), weakref.ref(tx.update), *rest)
        except TypeError:
            return cast(Any, function)(tx, *rest)

    return cast(Any, call)

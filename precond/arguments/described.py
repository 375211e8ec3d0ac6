"""Make public functions explain wrong arguments, and make transformations print in one line."""

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import optax

from precond.arguments.check_types import check_types
from precond.arguments.explained import explained
from precond.arguments.keywords import check_call
from precond.arguments.shown import shown
from precond.arguments.user_trees import check_keys
from precond.arguments.whose import known_states

__all__ = ["Described", "described"]

P = ParamSpec("P")
T = TypeVar("T")


class Described(optax.GradientTransformationExtraArgs):
    """Hold a transformation, and print what it is.

    It is equal to the pair of its functions, as every transformation of Optax.
    """

    text: str
    sign: int

    def __new__(cls, init: Any, update: Any, text: str = "", sign: int = 0) -> "Described":
        """Make one.

        Args:
          init: as of every transformation.
          update: as of every transformation.
          text: how it prints; empty for a transformation without a name.
          sign: -1 for a whole optimizer, 1 for a direction, 0 if that is not known.
        """
        self = super().__new__(cls, init, update)
        self.text, self.sign = text, sign
        return self

    @property
    def maker(self) -> str:
        """The name of the function that made it, such as "precond.blocked"; empty if it has no name."""
        return self.text.partition("(")[0]

    def __repr__(self) -> str:
        """Return the call that made it."""
        return self.text or "an Optax transformation"


def described(
    *, sign: int = 0, explain: bool = False, common: Callable[..., Any] | None = None
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a public function explain wrong arguments, and name the transformation that it returns.

    An argument that it does not have is refused, with the name that this library uses for the same thing. If `init` or
    `update` fails, trees that do not belong together are named. Signature and docstring stay what they are.

    Args:
      sign: the sign of the transformations that the function makes: -1 for whole optimizers, 1 for directions.
      explain: whether failures of their `init` and `update` are explained, which those of whole optimizers are.
      common: a function that is passed the arguments which are caught by `**`.

    Examples:
      >>> @described(sign=-1)
      ... def descend(learning_rate):
      ...     return optax.sgd(learning_rate)
      >>> descend(0.1)
      precond.descend(0.1)
      >>> descend(lr=0.1)
      Traceback (most recent call last):
      TypeError: descend() takes no lr=. Write learning_rate=.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        if sign and _place(function):
            known_states[f"{_place(function)}{function.__name__}"] = lambda: cast(Any, function)(*[1.0][: sign < 0])
        hints: dict[str, Any] = {}
        signature, name = _joined(inspect.signature(function), common), function.__name__

        def call(*args, **kwargs):  # type: ignore[no-untyped-def]  # noqa: ANN
            check(args, kwargs)
            return describe(run(args, kwargs), args, kwargs)

        def run(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            try:
                return cast(Any, function)(*args, **kwargs)
            except ValueError:
                for key, x in (*zip(signature.parameters, args, strict=False), *kwargs.items()):
                    check_keys(key, x)
                raise

        def check(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            check_call(name, signature, args, kwargs)
            if not hints:
                hints.update(_hints(function, signature))
            first = [n for n, p in signature.parameters.items() if p.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD]
            check_types(hints, dict(zip(first, args, strict=False)) | kwargs)

        def describe(made: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not isinstance(made, optax.GradientTransformation):
                return made
            given = [shown(x) for x in args] + [f"{key}={shown(x)}" for key, x in kwargs.items()]
            tx = optax.with_extra_args_support(made)
            full = f"{_place(function)}{name}"
            tx = explained(tx, full) if explain or sign < 0 else tx
            known = sign or getattr(made, "sign", 0)
            return Described(tx.init, tx.update, f"{full}({', '.join(given)})", known)

        # It belongs to the module of the function that it replaces, so that doctest finds its examples.
        closure = cast(Any, call)
        wrapper = types.FunctionType(
            closure.__code__, function.__globals__, name, closure.__defaults__, closure.__closure__
        )
        return cast(Callable[P, T], functools.wraps(function)(wrapper))

    return decorate


def _joined(signature: inspect.Signature, common: Callable[..., Any] | None) -> inspect.Signature:
    """Return the signature with the optional arguments of another function in place of `**`."""
    if common is None:
        return signature
    own = [p for p in signature.parameters.values() if p.kind != inspect.Parameter.VAR_KEYWORD]
    more = [p for p in inspect.signature(common).parameters.values() if p.default is not inspect.Parameter.empty]
    return signature.replace(parameters=[*own, *more])


def _hints(function: Callable[..., Any], signature: inspect.Signature) -> dict[str, Any]:
    """Return the annotations of a function's arguments; those that cannot be found say nothing."""
    hints = {name: p.annotation for name, p in signature.parameters.items()}
    if any(isinstance(hint, str) for hint in hints.values()):
        try:
            hints |= typing.get_type_hints(function)
        except NameError:
            hints = {name: hint for name, hint in hints.items() if not isinstance(hint, str)}
    return hints


def _place(function: Callable[..., Any]) -> str:
    """Return what stands before the name of a public function of this library."""
    parts = function.__module__.split(".")
    if parts[0] != "precond":
        return ""
    return "precond.recipes." if parts[1] == "recipes" else "precond."

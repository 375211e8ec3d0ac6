"""Check arguments against a function's annotations: refuse "3e-3" for a number, or a function for what it makes."""

import collections.abc
import inspect
import types
import typing
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import jax
import numpy as np
import optax
from jax.core import Tracer

from precond.arguments.checks import hint
from precond.arguments.functions import check_result
from precond.arguments.shown import shown

__all__ = ["check_types", "is_number", "kinds_of"]

_EXAMPLES = {
    "GradientTransformation": "optax.scale_by_adam()",
    "Root": "precond.inverse_root()",
    "Method": "precond.eigh()",
    "Damping": "precond.relative(1e-6)",
    "Precision": "precond.precision()",
    "RefreshSchedule": "precond.every(20)",
    "Mesh": "jax.make_mesh((8,), ('data',))",
    "Orthogonalizer": "precond.orthogonal.newton_schulz()",
    "Scale": "precond.orthogonal.match_rms(0.2)",
    "GainEstimator": "precond.large_batches.paper_gain()",
    "Transport": "precond.roots.rotated()",
    "Rows": "precond.transforms.sparse_rows(0.01)",
    "GradientFunction": "precond.replicas.gradients(loss)",
    "Likelihood": "precond.layers.categorical()",
    "Estimator": "precond.layers.exact(precond.layers.categorical())",
    "Capture": "precond.layers.linen.capture(model, variables, x)",
}
_WHENCE = {"layers": " Give those of a capture, capture.layers."}
_NUMBERS = (bool, int, float, complex, jax.Array, np.ndarray, np.number, np.bool_, jax.typing.ArrayLike)
_MAY_BE_NAN = ("skipped",)  # it marks what is skipped
_LOOSE = (Any, inspect.Parameter.empty, object)


def check_types(hints: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise for an argument of another kind than its annotation says; ranges are looked at elsewhere.

    Args:
      hints: annotations by the names of arguments. A kind that is not known accepts everything.
      given: the arguments.

    Raises:
      TypeError: naming the first such argument, and what it must be.

    Examples:
      >>> check_types({"b1": float, "refresh": int | None}, {"b1": "0.9"})
      Traceback (most recent call last):
      TypeError: b1='0.9': must be a number.
    """
    for name, value in given.items():
        kinds = kinds_of(hints.get(name, Any))
        if not any(_is(value, kind) for kind in kinds):
            words = dict.fromkeys(_in_words(kind) for kind in kinds if kind is not type(None))
            optional = ", or None" if type(None) in kinds else ""
            advice = hint(value) or _WHENCE.get(name, "")
            if isinstance(value, optax.GradientTransformation):
                advice = " Give the function that makes it: optax.sgd, not optax.sgd(0.1)."
            raise TypeError(f"{name}={shown(value)}: must be {' or '.join(words)}{optional}.{advice}")
        trees = any(typing.get_origin(kind) in (collections.abc.Iterable, collections.abc.Mapping) for kind in kinds)
        if any(kind in (int, float, complex) for kind in kinds) and not trees and _is(value, float):
            _check_scalar(name, value, kinds)
        elif callable(value) and (counts := [n for n in map(_arguments_of, kinds) if n]):
            check_result(name, value, counts[0])


def is_number(annotation: Any) -> bool:
    """Return whether an annotation means one number, and not a tree of arrays.

    Args:
      annotation: the annotation of an argument.

    Examples:
      >>> is_number(optax.ScalarOrSchedule), is_number(optax.Params), is_number(str)
      (True, False, False)
    """
    kinds = kinds_of(annotation)
    trees = any(typing.get_origin(kind) in (collections.abc.Iterable, collections.abc.Mapping) for kind in kinds)
    return not trees and any(kind in (jax.Array, float, int) for kind in kinds)


def _arguments_of(kind: Any) -> int:
    """Return the number of arguments of a function from numbers to a number, as a schedule is; 0 for anything else."""
    if typing.get_origin(kind) is not collections.abc.Callable:
        return 0
    given, result = typing.get_args(kind)
    return len(given) if given is not Ellipsis and all(map(is_number, (*given, result))) else 0


def _check_scalar(name: str, value: Any, kinds: list[Any]) -> None:
    """Raise for a value that cannot be meant as this number: True, 1j, several, NaN, or 2.5 where whole ones belong.

    `jax.typing.ArrayLike` has `bool` and `complex` among its kinds, but here it means one real number. An argument
    that may be an array of several numbers is annotated as a `jax.Array`.
    """
    loose = complex in kinds
    if np.ndim(value):
        if jax.Array in kinds and not loose:
            return
        raise TypeError(f"{name}={shown(value)}: must be one number.")
    if isinstance(value, Fraction):
        if Fraction not in kinds:
            raise TypeError(f"{name}={value!r}: must be a float or an integer: write float({name}).")
        return
    kind = (value.dtype if hasattr(value, "dtype") else np.result_type(value)).kind
    if kind == "c" or (kind == "b" and (loose or bool not in kinds)):
        raise TypeError(f"{name}={shown(value)}: must be a number.")
    if kind not in "iu" and not loose and float not in kinds and bool not in kinds:
        raise TypeError(f"{name}={shown(value)}: must be a whole number.")
    known = isinstance(value, float | np.floating) or (isinstance(value, jax.Array) and _is_known(value))
    if known and name not in _MAY_BE_NAN and float(value) != float(value):
        raise ValueError(f"{name}={value}: must be a number.")


def _is_known(x: jax.Array) -> bool:
    return not isinstance(x, Tracer) and x.is_fully_addressable and np.issubdtype(x.dtype, np.inexact)


def kinds_of(annotation: Any) -> list[Any]:
    """Return the members of a union, those of unions within it included.

    Args:
      annotation: the annotation of an argument.

    Examples:
      >>> kinds_of(int | None)
      [<class 'int'>, <class 'NoneType'>]
    """
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [kind for member in typing.get_args(annotation) for kind in kinds_of(member)]
    return [type(None) if annotation is None else annotation]


def _is(value: Any, kind: Any) -> bool:
    origin = typing.get_origin(kind) or kind
    if isinstance(kind, typing.TypeVar) or any(kind is loose for loose in _LOOSE):
        return True
    if kind is bool:
        return isinstance(value, bool | np.bool_)
    if any(origin is number for number in _NUMBERS):
        numeric = isinstance(value, bool | int | float | complex | np.generic) or hasattr(value, "__float__")
        return numeric or (hasattr(value, "shape") and hasattr(value, "dtype"))
    if getattr(origin, "_is_protocol", False) and "__call__" not in vars(origin):
        return True
    if origin is collections.abc.Callable or getattr(origin, "_is_protocol", False):
        return callable(value) and not isinstance(value, type)
    if origin is tuple and typing.get_args(kind) and Ellipsis not in typing.get_args(kind):
        return isinstance(value, tuple | list) and len(value) == len(typing.get_args(kind))
    if origin in (collections.abc.Sequence, tuple, list):
        words = str in typing.get_args(kind) and isinstance(value, tuple | list)
        plain = isinstance(value, tuple | list) and not hasattr(value, "_fields")  # no transformation, no view
        return plain and not (words and not all(isinstance(x, str) for x in value))
    if not isinstance(origin, type):
        return True
    if origin is optax.GradientTransformation:
        return callable(getattr(value, "init", None)) and hasattr(value, "update") and not isinstance(value, type)
    return isinstance(value, origin)


def _in_words(kind: Any) -> str:
    origin = typing.get_origin(kind) or kind
    if kind is bool:
        return "True or False"
    if any(origin is number for number in _NUMBERS):
        return "a number"
    if origin is collections.abc.Callable or getattr(origin, "_is_protocol", False):
        return "a function"
    if origin is tuple and typing.get_args(kind) and Ellipsis not in typing.get_args(kind):
        return f"a tuple of {len(typing.get_args(kind))}"
    if origin in (collections.abc.Sequence, tuple, list):
        return "a sequence of strings" if str in typing.get_args(kind) else "a sequence"
    if origin is collections.abc.Mapping or origin is dict:
        return "a mapping"
    if origin is str:
        return "a string"
    name = origin.__name__
    module = origin.__module__
    place = "" if module.startswith("precond") or "._" in module else ".".join(module.split(".")[:2]) + "."
    what = "an Optax transformation" if origin is optax.GradientTransformation else f"of type {place}{name}"
    return what + (f", such as {_EXAMPLES[name]}" if name in _EXAMPLES else "")

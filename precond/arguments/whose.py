"""Tell which optimizer a state was probably made by."""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

__all__ = ["known_states", "whose"]

_SMALL = {"kernel": jax.ShapeDtypeStruct((4, 3), jnp.float32), "bias": jax.ShapeDtypeStruct((3,), jnp.float32)}
_ALIKE = 0.7

known_states: dict[str, Callable[[], Any]] = {
    "optax.adam or optax.adamw": lambda: optax.adam(1.0),
    "optax.sgd": lambda: optax.sgd(1.0, momentum=0.9),
    "optax.lion": lambda: optax.lion(1.0),
    "optax.rmsprop": lambda: optax.rmsprop(1.0),
    "optax.adafactor": lambda: optax.adafactor(1.0),
}
"""Functions by name that make the optimizers whose states are told apart, for the parameters `kernel` and `bias`."""


def whose(state: Any) -> str | None:
    """Return the name of the optimizer whose state is made of the same kinds of states, or None.

    Args:
      state: the state of an optimizer.

    Examples:
      >>> whose(optax.adamw(1e-3).init({"weights": [jnp.ones(2)]}))
      'optax.adam or optax.adamw'
    """
    mine = frozenset(_kinds(state))
    scores = {name: _alike(mine, _kinds_of(make)) for name, make in known_states.items()}
    best = max(scores, key=lambda name: (scores[name], -len(name)))
    return best if scores[best] >= _ALIKE else None


def _alike(first: frozenset[str], second: frozenset[str]) -> float:
    return len(first & second) / max(len(first | second), 1)


def _kinds(tree: Any, place: str = "") -> Iterator[str]:
    """Give the types of all named tuples in a tree, each with the name of the field that contains it."""
    if hasattr(tree, "_fields"):
        kind = type(tree).__name__
        yield f"{place}>{kind}"
        for field in tree._fields:
            yield from _kinds(getattr(tree, field), f"{kind}.{field}")
    elif isinstance(tree, dict | tuple | list):
        for child in tree.values() if isinstance(tree, dict) else tree:
            yield from _kinds(child, place)


@functools.cache
def _kinds_of(make: Callable[[], Any]) -> frozenset[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return frozenset(_kinds(jax.eval_shape(make().init, _SMALL)))
    except Exception:  # it needs more arguments, or other parameters
        return frozenset()

"""Read the moments of Optax's Adam, and give them to the parts that keep moments in another form."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from precond.blocks import path_name
from precond.checkpoints.by_path import Record

__all__ = ["AVERAGES", "SETTLED", "Moments", "classes_in", "is_moment", "moments_of"]

AVERAGES = frozenset({"ema", "mu", "nu"})
"""The fields whose bias a count beside them removes."""

SETTLED = 2**30
"""A count of steps after which nothing is left of the bias of an average's start."""

_FIRST, _SECOND = {"ema", "momentum", "mu"}, {"nu"}
_NOT_ADAM = {"ScaleByBeliefState", "ScaleByNovogradState", "SophiaState"}  # whose nu is another number


class Moments(NamedTuple):
    """Hold the moments of parameters, free of the bias of their start.

    Attributes:
      counts: the number of steps of each parameter so far, by path.
      first: the moments of the gradients, by path.
      second: the moments of their squares, by path.
      foreign: the names of the classes of states that look like Adam's and are not, by path.
    """

    counts: dict[str, Any]
    first: dict[str, np.ndarray]
    second: dict[str, np.ndarray]
    foreign: dict[str, str]

    @property
    def count(self) -> Any:
        """The largest of the counts, or None if there are no moments."""
        return max(self.counts.values(), default=None)

    def at(self, place: str, path: str) -> np.ndarray | None:
        """Return what a place in a state is to have for a parameter, or None if these moments are nothing for it.

        Args:
          place: the name of the place; its last part says which moment it is for.
          path: the path of the parameter.

        Examples:
          >>> Moments({"w": 1}, {"w": np.ones(1)}, {}, {}).at("0/momentum/ema", "w")
          array([1.])
        """
        last = place.rpartition("/")[2]
        found = self.first if last in _FIRST else self.second if last in _SECOND else {}
        return found.get(path)


def is_moment(place: str) -> bool:
    """Return whether a place in a state is for a moment of Adam.

    Args:
      place: the name of the place.

    Examples:
      >>> is_moment("0/momentum/ema"), is_moment("0/count")
      (True, False)
    """
    return place.rpartition("/")[2] in _FIRST | _SECOND


def classes_in(state: Any) -> dict[str, type]:
    """Return the classes of the states that have a count beside averages, by the beginning of their names.

    Args:
      state: a state. If it was restored as plain dictionaries, it has no such classes.

    Examples:
      >>> import optax
      >>> classes_in(optax.adam(1e-3).init(np.ones(1)))["0/"].__name__
      'ScaleByAdamState'
    """

    def averages(x: Any) -> bool:
        fields = set(getattr(x, "_fields", ())) if isinstance(x, tuple) else set()
        return "count" in fields and not fields.isdisjoint(AVERAGES)

    found = jax.tree_util.tree_flatten_with_path(state, is_leaf=averages)[0]
    classes = {f"/{path_name(path)}/": type(x) for path, x in found if averages(x)}
    return {name.replace("/in_16_bits/", "/").replace("//", "/")[1:]: kind for name, kind in classes.items()}


def moments_of(record: Record, b1: float, b2: float, classes: Mapping[str, type] | None = None) -> Moments:
    """Return the moments that Optax's Adam keeps, from any state that has them; there may be several, for groups.

    Args:
      record: the record of the state.
      b1: the decay of the first moment.
      b2: the decay of the second moment.
      classes: the result of `classes_in`.

    Examples:
      >>> record = Record(
      ...     {"w": {"0/mu": np.full(1, 0.1), "0/nu": np.full(1, 0.1)}},
      ...     {"0/count": np.int32(1)},
      ... )
      >>> float(moments_of(record, 0.9, 0.999).first["w"][0].round(6))
      1.0
    """
    moments = Moments({}, {}, {}, {})
    for name, count in record.others.items():
        base = name.removesuffix("count")
        if f"/{name}".endswith("/count") and np.ndim(count) == 0:
            steps, kind = max(int(count), 1), (classes or {}).get(base, tuple).__name__
            for path, of in record.parameters.items():
                if f"{base}mu" not in of or f"{base}nu" not in of or path in moments.counts:
                    continue
                if kind in _NOT_ADAM:
                    moments.foreign[path] = kind
                    continue
                moments.counts[path] = count
                moments.first[path] = of[f"{base}mu"] / (1 - b1**steps)
                moments.second[path] = of[f"{base}nu"] / (1 - b2**steps)
    return moments

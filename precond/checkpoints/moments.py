"""Read the moments of Optax's Adam, and give them to the parts that keep moments in another form."""

from typing import Any, NamedTuple

import numpy as np

from precond.checkpoints.by_path import Record

__all__ = ["SETTLED", "Moments", "moments_of"]

SETTLED = 2**30
"""A count of steps after which nothing is left of the bias of an average's start."""

_FIRST, _SECOND = {"ema", "momentum", "mu"}, {"nu"}


class Moments(NamedTuple):
    """Hold the moments of parameters, free of the bias of their start.

    Attributes:
      count: the number of steps so far; None if there are no moments.
      first: the moments of the gradients, by path.
      second: the moments of their squares, by path.
    """

    count: Any
    first: dict[str, np.ndarray]
    second: dict[str, np.ndarray]

    def at(self, place: str, path: str) -> np.ndarray | None:
        """Return what a place in a state is to have for a parameter, or None if these moments are nothing for it.

        Args:
          place: the name of the place; its last part says which moment it is for.
          path: the path of the parameter.

        Examples:
          >>> Moments(1, {"w": np.ones(1)}, {}).at("0/momentum/ema", "w")
          array([1.])
        """
        last = place.rpartition("/")[2]
        found = self.first if last in _FIRST else self.second if last in _SECOND else {}
        return found.get(path)


def moments_of(record: Record, b1: float, b2: float) -> Moments:
    """Return the moments that Optax's Adam keeps, from any state that has them.

    Args:
      record: the record of the state.
      b1: the decay of the first moment.
      b2: the decay of the second moment.

    Examples:
      >>> record = Record(
      ...     {"w": {"0/mu": np.full(1, 0.1), "0/nu": np.full(1, 0.1)}},
      ...     {"0/count": np.int32(1)},
      ... )
      >>> float(moments_of(record, 0.9, 0.999).first["w"][0].round(6))
      1.0
    """
    for name, count in record.others.items():
        base = name.removesuffix("count")
        has = {path: of for path, of in record.parameters.items() if f"{base}mu" in of and f"{base}nu" in of}
        if name.endswith("count") and has:
            steps = max(int(count), 1)
            first = {path: of[f"{base}mu"] / (1 - b1**steps) for path, of in has.items()}
            return Moments(count, first, {path: of[f"{base}nu"] / (1 - b2**steps) for path, of in has.items()})
    return Moments(None, {}, {})

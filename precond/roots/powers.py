"""Choose the power of a root: one for all factors, or one by the order of the block, or one by axis."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import jax

from precond.arguments import check_number, shown
from precond.roots.root import DENOMINATOR, Axis, Power, PowerOf

__all__ = ["Powers", "powers"]

Powers = Power | Callable[[int], Power] | Mapping[int, Power | Mapping[int, Power]] | None


def _check(name: str, power: Any) -> None:
    if isinstance(power, jax.Array):
        raise TypeError(
            f"{name} is an array, but it chooses the iteration and must be a Python number. Under "
            "optax.inject_hyperparams(factory, ..), pass static_args=precond.static_args(factory)."
        )
    advice = (
        "The root is F^(-power), so that the exponent 4 of other libraries is power=1/4. To leave an axis without a "
        "root, give it no factor, by axes= of the statistics."
    )
    check_number(name, power, 1 / DENOMINATOR, 1, advice=advice)


def _checked(name: str, power: Any) -> Power:
    _check(name, power)
    return power


def powers(power: Powers) -> PowerOf:
    """Turn a user's `power` into a function from an axis to the power of its factor; see `precond.inverse_root`.

    Raises:
      ValueError: for a power that is not positive.
      TypeError: for a power that is an array, or not a number.

    Examples:
      >>> power = powers({2: {0: 0.5}, 3: 1.0})
      >>> (
      ...     power(Axis(0, rank=2, order=2)),
      ...     power(Axis(1, rank=2, order=2)),
      ...     power(Axis(1, rank=3, order=1)),
      ... )
      (0.5, Fraction(1, 4), 1.0)
    """
    if power is None:
        return lambda axis: Fraction(1, 2 * axis.order)
    if callable(power):
        return lambda axis: _checked(f"power({axis.order})", power(axis.order))
    if not isinstance(power, Mapping):
        _check("power", power)
        return lambda axis: power
    if not all(isinstance(rank, int) for rank in power):
        raise TypeError(f"power={shown(power)}: its keys count the axes of a block, as in {{2: 1/4}}.")
    for rank, given in power.items():
        for index, q in given.items() if isinstance(given, Mapping) else [(None, given)]:
            _check(f"power[{rank}]" if index is None else f"power[{rank}][{index}]", q)

    def by_axis(axis: Axis) -> Power:
        found = power.get(axis.rank)
        if isinstance(found, Mapping):
            found = found.get(axis.index)
        return Fraction(1, 2 * axis.rank) if found is None else found

    return by_axis

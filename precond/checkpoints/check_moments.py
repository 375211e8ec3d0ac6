"""Check that the moments in a state are those of an Adam with the decays that were given."""

import warnings
from collections.abc import Collection

import numpy as np

from precond.checkpoints.moments import Moments

__all__ = ["DEFAULTS", "check_moments", "largest_ratio"]

DEFAULTS = {"b1": 0.9, "b2": 0.999}
"""The decays of Optax's Adam."""

_ROUNDING = 1.2  # of moments in bfloat16
_LEAST = 1e-15  # momentum whose square is near the smallest number of float32


def check_moments(
    moments: Moments, used: Collection[str], decays: dict[str, float], missing: Collection[str] = ()
) -> None:
    """Warn of moments that may be wrong, and raise for those that cannot be of Adam.

    Args:
      moments: the moments that were found.
      used: the paths of the parameters whose moments are asked for; the others are not checked.
      decays: the decays by name.
      missing: the names of those that the caller did not give.

    Raises:
      ValueError: if a momentum is larger than any gradients with this second moment allow.

    Examples:
      >>> moments = Moments({"w": np.int32(5000)}, {"w": np.ones(1)}, {"w": np.ones(1)}, {})
      >>> check_moments(moments, {"w"}, DEFAULTS)
    """
    foreign = [path for path in moments.foreign if path in used]
    if foreign:
        kind = moments.foreign[foreign[0]]
        warnings.warn(
            f"state= has a {kind}, whose nu is not the mean of the squared gradients: nothing is taken from it, and "
            f"the moments of '{foreign[0]}' start again from 0. adopt takes those of optax.adam and optax.adamw.",
            stacklevel=4,
        )
    there = [path for path in moments.counts if path in used and moments.counts[path] > 0]
    youngest = min((int(moments.counts[path]) for path in there), default=0)
    unsure = [k for k in missing if there and decays[k] ** youngest > 0.1]
    if unsure:
        words = " and ".join(f"{k}=" for k in unsure)
        written = ", ".join(f"{k}={DEFAULTS[k]}" for k in unsure)
        warnings.warn(
            f"state= is of an Adam after {youngest} steps, whose moments still depend on the decays that it had, and "
            f"{words} was not given. Optax's defaults are taken: pass {written} if they are right, else those of this "
            f"Adam.",
            stacklevel=4,
        )
    b1, b2 = decays["b1"], decays["b2"]
    for path in there:
        first, second = np.abs(moments.first[path]), moments.second[path]
        bound = largest_ratio(b1, b2, int(moments.counts[path]))
        if np.any(wrong := (first > _LEAST) & (np.square(first) > _ROUNDING * bound * second)):
            ratio = np.max(np.square(first[wrong]) / np.maximum(second[wrong], _LEAST**2))
            raise ValueError(
                f"state= has moments of '{path}' that no Adam with b1={b1} and b2={b2} has: mu**2 / nu is "
                f"{ratio:.3g}, and cannot be more than {bound:.3g}. Pass b1= and b2= of this Adam. Moments of another "
                f"optimizer, such as optax.adamax, which keeps maxima as nu, cannot be taken: use tx.init(params)."
            )


def largest_ratio(b1: float, b2: float, steps: int) -> float:
    r"""Return the largest ratio that Adam's moments can have, for any gradients.

    $$\frac{\hat m^2}{\hat v} = \frac{(\sum_k w_k g_k)^2}{\sum_k u_k g_k^2} \le \sum_k \frac{w_k^2}{u_k}$$

    It is the inequality of Cauchy and Schwarz for the weights $w_k \propto \beta_1^k$ and $u_k \propto \beta_2^k$ of
    the gradient k steps ago. Both have the sum 1.

    Args:
      b1: the decay of the first moment.
      b2: the decay of the second moment.
      steps: the number of steps so far, at least 1.

    Examples:
      >>> largest_ratio(0.9, 0.999, 1), round(largest_ratio(0.9, 0.999, 10_000), 1)
      (1.0, 52.9)
    """
    if b1**2 >= b2:
        return np.inf if steps > 1 else 1.0  # old gradients have nearly no weight in the second moment
    ratio = b1**2 / b2
    of_one = (1 - b1) ** 2 / (1 - b2) * (1 - b2**steps) / (1 - b1**steps) ** 2
    return of_one * (1 - ratio**steps) / (1 - ratio)

"""List the sets of odd polynomials that take singular values towards 1 and that people train with."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from precond.arguments import check_number, check_whole, described
from precond.linalg import minimax_step

__all__ = ["OddPolynomial", "check_polynomials", "cubic", "deepseek", "dion", "jordan", "polar_express"]

_CONVERGED = 5e-6  # an interval that is shorter than this share of itself is a point


class OddPolynomial(NamedTuple):
    """Hold the polynomial `linear s + cubic s^3 + quintic s^5`.

    Attributes:
      linear: the coefficient of s, by which the smallest singular values grow.
      cubic: the coefficient of s cubed.
      quintic: the coefficient of the fifth power. 0 saves the square of the Gram matrix.
    """

    linear: float
    cubic: float
    quintic: float = 0.0


@described()
def jordan(steps: int = 5) -> tuple[OddPolynomial, ...]:
    """Return the quintic of the original Muon, the same in every step.

    It grows small singular values fast and does not converge: large ones end between 0.68 and 1.13.

    Args:
      steps: how many times it is applied.

    Raises:
      ValueError, TypeError: for a number of steps that is not a positive integer.

    Reference:
      Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.

    Examples:
      >>> jordan(steps=1)
      (OddPolynomial(linear=3.4445, cubic=-4.775, quintic=2.0315),)
    """
    check_whole("steps", steps, least=1)
    return (OddPolynomial(3.4445, -4.7750, 2.0315),) * steps


@described()
def dion() -> tuple[OddPolynomial, ...]:
    """Return five different quintics, which end closer to 1 than five times the same.

    Optax calls them "dion", and NVIDIA's Emerging-Optimizers "quintic".

    Reference:
      Ahn et al., Dion: Distributed Orthonormalized Updates, 2025.

    Examples:
      >>> len(dion())
      5
    """
    return (
        OddPolynomial(4.0848, -6.8946, 2.9270),
        OddPolynomial(3.9505, -6.3029, 2.6377),
        OddPolynomial(3.7418, -5.5913, 2.3037),
        OddPolynomial(2.8769, -3.1427, 1.2046),
        OddPolynomial(2.8366, -3.0525, 1.2012),
    )


@described()
def polar_express(
    steps: int = 5, *, low: float = 1e-3, cushion: float = 0.02407327424182761, safety: float = 1.01
) -> tuple[OddPolynomial, ...]:
    r"""Return the quintics whose composition is the best for singular values between `low` and 1.

    Each polynomial minimises the largest $|1 - p(s)|$ over the interval to which those before it have brought the
    singular values. It converges: after 8 steps all singular values above `low` are 1 to 4 digits. Smaller ones grow by
    the product of the first coefficients, 8.2 in the first step.

    Args:
      steps: how many.
      low: the smallest singular value to care for, relative to the norm of the matrix.
      cushion: each polynomial is made for an interval that begins at this share of its end, or above. Without it, the
        first polynomials bring values in the middle of the interval near 0. The default is that of the authors' code.
      safety: the argument of each polynomial is divided by this until the composition has converged, so that
        rounding pushes no singular value out of the interval.

    Raises:
      ValueError, TypeError: for numbers out of range or of a wrong type.

    Reference:
      Amsel et al., The Polar Express: Optimal Matrix Sign Methods and Their Application to the Muon Algorithm, 2025.

    Examples:
      >>> [round(p.linear, 4) for p in polar_express(3)]
      [8.2052, 4.0664, 3.9096]
    """
    check_whole("steps", steps, least=1)
    check_number("low", low, 1e-5, 0.999)
    check_number("cushion", cushion, 0, 0.999)
    check_number("safety", safety, 1, 2)
    found, end, done = [], (low, 1.0), False
    for _ in range(steps):
        p, end = _best(*end, cushion)
        # The first interval that is a point still comes from a step that was divided.
        found.append(p if done else OddPolynomial(*(c / safety**k for c, k in zip(p, (1, 3, 5), strict=True))))
        done = end[1] - end[0] < _CONVERGED
    return tuple(found)


def _best(low: float, high: float, cushion: float) -> tuple[OddPolynomial, tuple[float, float]]:
    """Return the best quintic for an interval, centred at 1, and the interval that it maps to."""
    if high - low < _CONVERGED * high:
        return OddPolynomial(15 / 8 / high, -10 / 8 / high**3, 3 / 8 / high**5), (1.0, 1.0)
    start = max(low, cushion * high)
    step = minimax_step(2, start**2, high**2, degree=2)

    def value(s: float) -> float:
        return sum(c * s ** (2 * k + 1) for k, c in enumerate(step.coefficients))

    # With a cushion the least value is that of the true end, which the exchange has not seen.
    least = min(value(low), 1 - step.error)
    centre = 2 / (least + 1 + step.error)
    return OddPolynomial(*(c * centre for c in step.coefficients)), (least * centre, 2 - least * centre)


@described()
def deepseek() -> tuple[OddPolynomial, ...]:
    """Return eight of Jordan's quintics, then two that converge.

    Reference:
      DeepSeek-AI, DeepSeek-V4, 2026.

    Examples:
      >>> len(deepseek()), deepseek()[-1].linear
      (10, 2.0)
    """
    return (*jordan(8), *(OddPolynomial(2.0, -1.5, 0.5),) * 2)


@described()
def cubic() -> tuple[OddPolynomial, ...]:
    """Return five cubics, for which no Gram matrix is squared.

    Examples:
      >>> {p.quintic for p in cubic()}
      {0.0}
    """
    return (
        OddPolynomial(3.3657, -3.3421),
        OddPolynomial(2.5744, -1.4957),
        OddPolynomial(2.5369, -1.4313),
        OddPolynomial(2.4419, -1.2764),
        OddPolynomial(2.2230, -0.9631),
    )


def check_polynomials(value: Sequence[Sequence[float]] | np.ndarray) -> tuple[OddPolynomial, ...]:
    """Return polynomials as `OddPolynomial`s, or raise.

    Args:
      value: a sequence, or an array of NumPy, with two or three numbers for each step.

    Raises:
      TypeError: for anything but such a sequence.
      ValueError: for a sequence without steps.

    Examples:
      >>> check_polynomials([(1.5, -0.5)])
      (OddPolynomial(linear=1.5, cubic=-0.5, quintic=0.0),)
    """
    value = value.tolist() if isinstance(value, np.ndarray) else value
    rows = list(value) if isinstance(value, (tuple, list)) else None
    if rows is None or not all(isinstance(row, (tuple, list)) and len(row) in (2, 3) for row in rows):
        call = " Call this function." if callable(value) else ""
        raise TypeError(
            f"polynomials={value!r}: must have two or three coefficients for each step, such as jordan(5), dion() or "
            f"((1.5, -0.5),) * 10.{call}"
        )
    if not rows:
        raise ValueError("polynomials=(): must have at least one step, such as jordan(5).")
    for row in rows:
        for coefficient in row:
            check_number("polynomials", coefficient, -1e6, 1e6)
    return tuple(OddPolynomial(*map(float, row)) for row in rows)

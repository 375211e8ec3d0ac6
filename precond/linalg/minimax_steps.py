"""Find minimax polynomials, which take a matrix towards its inverse root in the fewest steps."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.polynomial import chebyshev

__all__ = ["LEAST", "TIGHTEST", "Step", "minimax_step", "minimax_steps"]

LEAST = 1e-12  # the least start of an interval that ends in 1, since Remez's exchange is done in float64
TIGHTEST = 1e-13  # the smallest error of the last step, since its polynomial is made in float64
_EXCHANGES = 20  # far more than needed: they converge quadratically, and the fourth is exact to 1e-9 (measured)
_ROUNDING = 1e-11  # below it the peaks of the error are rounding, and the first polynomial is good enough
_GENTLE = 3  # first steps of degree 1
_STEEP = 1e-5  # if the interval begins below this, all of them are needed


class Step(NamedTuple):
    """Hold one polynomial h of a composite.

    Attributes:
      coefficients: the coefficients of h, the constant first.
      error: the largest `|1 - x^(1/p) h(x)|` on the interval for which h was made.
    """

    coefficients: tuple[float, ...]
    error: float


def minimax_step(p: int, low: float, high: float, degree: int) -> Step:
    r"""Find the polynomial $h$ of a degree that minimises $\max |1 - x^{1/p} h(x)|$ on an interval of positive numbers.

    It is found by Remez's exchange in float64. Since the $x^{1/p} x^j$ are a Chebyshev system, h is the best if its
    error reaches its largest magnitude with alternating signs in degree + 2 points.

    Args:
      p: the order of the root.
      low: the start of the interval, above 0.
      high: the end of the interval.
      degree: the degree of h.

    Examples:
      >>> # The error 1 - h x is the same at both ends but for the sign.
      >>> step = minimax_step(1, 0.5, 1.0, degree=0)
      >>> [round(c, 4) for c in step.coefficients], round(step.error, 4)
      ([1.3333], 0.3333)
    """
    series, x = chebyshev.Chebyshev, chebyshev.Chebyshev.identity(domain=[low, high])
    signs = (-1.0) ** np.arange(degree + 2)
    points = (low + high) / 2 - (high - low) / 2 * np.cos(np.linspace(0, np.pi, degree + 2))
    h, worst = series([0.0]), np.inf
    for _ in range(_EXCHANGES):
        terms = chebyshev.chebvander((2 * points - (low + high)) / (high - low), degree)
        system = np.column_stack([points[:, None] ** (1 / p) * terms, signs])
        h = series(np.linalg.solve(system, np.ones(degree + 2))[:-1], domain=[low, high])
        # Inside the interval the error is largest where the derivative of x^(1/p) h(x) is 0.
        points = np.asarray([low, *np.sort((h + p * x * h.deriv()).roots().real), high])
        worst = np.max(np.abs(1 - points ** (1 / p) * h(points)))
        if worst < _ROUNDING:
            break
    coefficients = h.convert(kind=np.polynomial.Polynomial).coef
    return Step(tuple(float(c) for c in coefficients), float(worst))


def _products(p: int, steps: Sequence[Step]) -> int:
    """Count the products that `precond.linalg.composite_root` takes: powers of h, two for M, and one for X."""
    half = max(p // 2, 1)
    update = half.bit_length() + half.bit_count() + 1
    return sum(len(step.coefficients) - 2 for step in steps) + update * (len(steps) - 1)


def _greedy(p: int, low: float, tolerance: float, gentle: int) -> tuple[Step, ...]:
    """Take steps until the tolerance is reached: `gentle` steps of degree 1, then steps of degree 2."""
    slack = tolerance ** (1 / 3) / 2
    steps, ends = [], (low, 1.0)
    while not steps or steps[-1].error > tolerance:
        degree = 1 if len(steps) < gentle else 2
        steps.append(minimax_step(p, ends[0] * (1 - slack), ends[1] * (1 + slack), degree))
        ends = (1 - steps[-1].error) ** p, (1 + steps[-1].error) ** p
    return tuple(steps)


@functools.lru_cache(maxsize=256)  # a run asks for a few; the bound is for long sessions with many powers
def minimax_steps(p: int, low: float, tolerance: float) -> tuple[Step, ...]:
    r"""Find steps whose composition is $x^{-1/p}$ on $[\text{low}, 1]$ to a relative error below the tolerance.

    The choice is greedy. Each step is the best of its degree for the interval to which the steps before have brought
    $x h(x)^p$; after a step of error e this is $[(1 - e)^p, (1 + e)^p]$. The first one to three steps are of degree 1,
    whichever number takes the fewest products, and the others are of degree 2. If the interval begins below 1e-5, three
    are of degree 1. With degree 2 from the start there would be one step less. But the first polynomial would be so
    steep that in float32, at a condition number of 1e6, $X^p A$ would be ten times as far from the identity.

    The interval is made longer at both ends, but only so much that a step still reaches the tolerance on the added
    parts. This is room for rounding. Without it the last intervals would have almost no length, and the coefficients of
    their polynomials no bound.

    Args:
      p: the order of the root.
      low: the least eigenvalue, relative to a bound of the largest; at least half of 1e-12.
      tolerance: a bound of the error of the last step, at least 1e-13.

    Raises:
      ValueError: for smaller numbers.

    Examples:
      >>> [len(minimax_steps(4, low, 1e-6)) for low in (1e-2, 1e-4, 1e-6, 1e-8)]
      [4, 5, 7, 9]
    """
    if tolerance < TIGHTEST or low < LEAST / 2:
        raise ValueError(f"low={low}, tolerance={tolerance}: beyond float64, in which the polynomials are made.")
    least = _GENTLE if low < _STEEP else 1
    found = [_greedy(p, low, tolerance, gentle) for gentle in range(_GENTLE, least - 1, -1)]
    return min(found, key=lambda steps: _products(p, steps))

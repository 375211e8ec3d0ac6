"""Compute roots by the coupled Newton iteration: by matrix products alone."""

import math

import jax

from precond.arguments import check_number, check_whole, described
from precond.linalg import coupled_newton, largest_eigenvalue
from precond.roots.methods.condition_of import condition_of
from precond.roots.methods.method import Method, Ridge, RootResult
from precond.roots.root import Power, as_fraction

__all__ = ["newton"]


@described()
def newton(*, iterations: int = 32, tolerance: float | None = None) -> Method:
    """Compute roots by the coupled Newton iteration: by matrix products alone, for any rational power.

    Args:
      iterations: the number of iterations, which is fixed; 32 reach a condition number of 1e8.
      tolerance: the bound of `max |M - I|` below which a matrix stays as it is; None is 8 units of rounding.

    Raises:
      ValueError, TypeError: for a number out of range.

    Examples:
      >>> from precond import inverse_root
      >>> root = inverse_root(method=newton(iterations=24))
    """
    check_whole("iterations", iterations, least=1)
    if tolerance is not None:
        check_number("tolerance", tolerance, 0, math.inf)

    def root(a: jax.Array, power: Power, ridge: Ridge, least: float) -> RootResult:
        del least
        largest = largest_eigenvalue(a)
        damping = ridge(largest)
        out = coupled_newton(a, as_fraction(power), damping, iterations=iterations, tolerance=tolerance)
        return RootResult(out, largest, damping, condition_of(out, largest + damping, power))

    return Method("newton()", root, None)

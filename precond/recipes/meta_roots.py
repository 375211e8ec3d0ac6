"""Compute the inverse roots of Meta's Distributed Shampoo."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
from jax import lax

from precond.arguments import check_number, check_whole, described
from precond.linalg.lapack import eigh
from precond.linalg.products import matrix_power, product
from precond.recipes.plain_root import Solution, plain_root, shifted
from precond.roots import Root
from precond.roots.powers import Powers

__all__ = [
    "inverse_powers",
    "meta_eigh",
    "meta_higher_order",
    "meta_newton",
    "meta_pseudo_inverse",
    "pseudo_inverse_powers",
]


def _from_eigen(values: jax.Array, inverse: jax.Array, vectors: jax.Array, ridge: jax.Array) -> Solution:
    root = product(vectors * inverse[:, None, :], jnp.swapaxes(vectors, 1, 2))
    return Solution(root, 0 * ridge, jnp.maximum(values[:, -1], 0), ridge)


def inverse_powers(values: jax.Array, power: float, epsilon: float, *, after: bool) -> jax.Array:
    """Take eigenvalues `[M, d]`, those of `A + epsilon I` unless `after`, to the power `-power`, shifted up before.

    Examples:
      >>> inverse_powers(jnp.asarray([[1.0, -1.0]]), 1.0, 2.0, after=False).tolist()
      [[0.25, 0.5]]
    """
    least = jnp.min(values, axis=1, keepdims=True)
    up = epsilon - jnp.minimum(least, 0) if after else jnp.where(least < epsilon, epsilon - least, 0)
    return (values + up) ** -power


def pseudo_inverse_powers(values: jax.Array, power: float, rtol: float | None, atol: float) -> jax.Array:
    """Take eigenvalues `[M, d]` to the power `-power`, but for small ones, which become 0.

    Examples:
      >>> pseudo_inverse_powers(jnp.asarray([[4.0, 0.0]]), 0.5, 0.0, 0.0).tolist()
      [[0.5, 0.0]]
    """
    share = values.shape[-1] * float(jnp.finfo(values.dtype).eps) if rtol is None else rtol
    kept = values > jnp.maximum(share * jnp.maximum(jnp.max(values, axis=1, keepdims=True), 0), atol)
    return jnp.where(kept, jnp.where(kept, values, 1) ** -power, 0)


@described()
def meta_eigh(epsilon: float = 1e-12, *, power: Powers = None, after: bool = False) -> Root:
    r"""Compute roots as `EigenConfig` does: by an eigendecomposition whose values are shifted up.

    The matrix is $A + \epsilon I$; its values are shifted up until the least is $\epsilon$.

    Args:
      epsilon: absolute.
      power: as in `precond.inverse_root`.
      after: decompose A, and add $\epsilon - \min(\lambda_{\min}, 0)$ to its values (`perturb_before_computation`
        off).

    Raises:
      ValueError, TypeError: for a negative epsilon or a power that is not positive.

    Examples:
      >>> root, factor = meta_eigh(1.0, power=0.5), jnp.full((1, 1, 1), 3.0)
      >>> root.refresh(
      ...     factor, root.init(factor, (factor,)).derived[0], 0.5, True
      ... ).matrix.item()
      0.5
    """
    check_number("epsilon", epsilon, 0)

    def solve(a, power):
        found, vectors = eigh(a if after else shifted(a, epsilon))
        inverse = inverse_powers(found, float(power), epsilon, after=after)
        return _from_eigen(found, inverse, vectors, jnp.full_like(found[:, 0], epsilon))

    return plain_root(solve, power=power)


@described()
def meta_pseudo_inverse(
    epsilon: float = 0.0, *, power: Powers = None, rtol: float | None = 0.0, atol: float = 0.0
) -> Root:
    r"""Compute roots as `PseudoInverseConfig` does: small eigenvalues have no inverse.

    Small are those up to $\max(\mathrm{rtol} \, \lambda_{\max}, \mathrm{atol})$.

    Args:
      epsilon: must be 0.
      power: as in `precond.inverse_root`.
      rtol: None is the size of the factor times the unit of rounding. With 0, the default there, every eigenvalue above
        0 has an inverse.
      atol: absolute.

    Raises:
      ValueError: for an epsilon that is not 0, a negative tolerance or a power that is not positive.

    Examples:
      >>> root = meta_pseudo_inverse(power=0.5)
      >>> factor = jnp.diag(jnp.asarray([4.0, 0.0]))[None]
      >>> root.refresh(
      ...     factor, root.init(factor, (factor,)).derived[0], 0.5, True
      ... ).matrix.tolist()
      [[[0.5, 0.0], [0.0, 0.0]]]
    """
    if epsilon != 0:
        raise ValueError(f"epsilon={epsilon}: must be 0 with meta_pseudo_inverse(), which adds nothing to a factor.")
    check_number("atol", atol, 0)
    if rtol is not None:
        check_number("rtol", rtol, 0)

    def solve(a, power):
        values, vectors = eigh(a)
        inverse = pseudo_inverse_powers(values, float(power), rtol, atol)
        return _from_eigen(values, inverse, vectors, 0 * values[:, 0])

    return plain_root(solve, power=power)


def _iterate(a: jax.Array, z: jax.Array, p: int, series: list[float], stop: tuple[int, float], first: bool):
    """Repeat `M <- N^p M, X <- X N` on one matrix, with N the series in `I - M`.

    `first` begins with a step of Newton's, and ends where the error stagnates or grows by a fifth as well.
    """
    eye, (iterations, tolerance) = jnp.eye(a.shape[-1], dtype=a.dtype), stop

    def advance(m, x, coefficients):
        n = coefficients[-1] * eye
        for b in coefficients[-2::-1]:
            n = product(n, eye - m) + b * eye
        m, x = product(matrix_power(n, p), m), product(x, n)
        return m, x, jnp.max(jnp.abs(m - eye))

    def step(carry):
        steps, m, x, error, _ = carry
        m, x, new = advance(m, x, series)
        stuck = first & ((new > 1.2 * error) | ((new == error) & (error < 1e-3)))
        return steps + 1, m, x, new, stuck

    def going(carry):
        steps, _, _, error, stuck = carry
        return (steps < iterations) & (error > tolerance) & ~stuck

    m, x = z * a, z ** (1 / p) * eye
    error = jnp.max(jnp.abs(m - eye))
    if first:
        m, x, error = advance(m, x, [1.0, 1 / p])
    return lax.while_loop(going, step, (int(first), m, x, error, error < 0))[2]


@described()
def meta_newton(
    epsilon: float = 1e-12, *, power: Powers = None, iterations: int = 100, tolerance: float = 1e-6
) -> Root:
    r"""Compute roots as `CoupledNewtonConfig` does: by the coupled Newton iteration, without retries.

    The matrix is $A + \epsilon I$.

    Args:
      epsilon: absolute.
      power: $1/p$ for an integer p, as in `precond.inverse_root`.
      iterations: the largest number of iterations.
      tolerance: the tolerance on $\max |M - I|$.

    Raises:
      ValueError, TypeError: for a number out of range, or, when it is used, a power that is not 1/p.

    Examples:
      >>> root, factor = meta_newton(1.0, power=0.5), jnp.full((1, 1, 1), 3.0)
      >>> root.refresh(
      ...     factor, root.init(factor, (factor,)).derived[0], 0.5, True
      ... ).matrix.item()
      0.5
    """
    check_number("epsilon", epsilon, 0)
    check_whole("iterations", iterations, least=1)
    check_number("tolerance", tolerance, 0, math.inf)

    def solve(a, power):
        if power.numerator != 1:
            raise ValueError(f"power={power}: meta_newton() takes 1/p for an integer p; meta_eigh() takes any.")
        p = power.denominator

        def one(x):
            z = (1 + p) / (2 * jnp.linalg.norm(x))
            return _iterate(x, z, p, [1.0, 1 / p], (iterations, tolerance), first=False)

        root, ridge = jax.vmap(one)(shifted(a, epsilon)), jnp.full_like(a[:, 0, 0], epsilon)
        return Solution(root, 0 * ridge, jnp.linalg.norm(a, axis=(1, 2)), ridge)

    return plain_root(solve, power=power)


@described()
def meta_higher_order(
    epsilon: float = 0.0,
    *,
    power: Powers = None,
    order: int = 3,
    relative: float = 0.0,
    iterations: int = 100,
    tolerance: float = 1e-8,
) -> Root:
    r"""Compute roots as `CoupledHigherOrderConfig` does: by a coupled iteration with `order` terms of a series.

    The series is that of $(1 - x)^{-1/p}$.

    To a factor $\max(\mathrm{relative} \, \|A\|_\infty, \epsilon)$ is added. It begins with a step of Newton's from
    $M = (A + \epsilon I) / \mathrm{tr}$, and ends as well where the error stagnates or grows. A root with
    $\max |A X^p - I|$ above 0.1, which the reference raises for, is refused. The root is then taken to the power q.

    Args:
      epsilon: absolute (`abs_epsilon`).
      power: $q/p$, as in `precond.inverse_root`.
      order: 2 is Newton's.
      relative: see above (`rel_epsilon`).
      iterations: the largest number of iterations.
      tolerance: the tolerance on $\max |M - I|$.

    Raises:
      ValueError, TypeError: for a number out of range.

    Examples:
      >>> root, factor = meta_higher_order(1.0, power=0.5), jnp.full((1, 1, 1), 3.0)
      >>> round(
      ...     root.refresh(
      ...         factor, root.init(factor, (factor,)).derived[0], 0.5, True
      ...     ).matrix.item(),
      ...     6,
      ... )
      0.5
    """
    check_number("epsilon", epsilon, 0)
    check_whole("order", order, least=2)
    check_number("relative", relative, 0)
    check_whole("iterations", iterations, least=1)
    check_number("tolerance", tolerance, 0, math.inf)

    def solve(a: jax.Array, power: Fraction) -> Solution:
        p, q = power.denominator, power.numerator
        series = [math.prod((1 + (i - 1) * p) / (i * p) for i in range(1, j + 1)) for j in range(order)]
        largest = jnp.max(jnp.sum(jnp.abs(a), axis=2), axis=1)
        ridge = jnp.maximum(relative * largest, epsilon)
        damped = shifted(a, ridge[:, None, None])

        def one(x):
            return _iterate(x, 1 / jnp.trace(x), p, series, (iterations, tolerance), first=True)

        root = jax.vmap(one)(damped)
        error = jnp.max(jnp.abs(shifted(product(damped, matrix_power(root, p)), -1.0)), axis=(1, 2))
        return Solution(matrix_power(root, q), error, largest, ridge)

    return plain_root(solve, power=power, tolerance=0.1)

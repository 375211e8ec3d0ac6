"""Compute the inverse roots of Google's Distributed Shampoo."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from precond.arguments import check_number, described
from precond.linalg.lapack import eigh
from precond.linalg.products import matrix_power, product
from precond.recipes.plain_root import Solution, plain_root, shifted
from precond.roots import Root
from precond.roots.powers import Powers

__all__ = ["google_eigh", "google_newton"]

_AGAIN = 0.05  # an error above this asks for ten times the ridge
_TRIES = 6
_GROWTH = 1.2  # an error that grows by more ends the iteration
_ITERATIONS, _TOLERANCE = 100, 1e-6


def _largest_eigenvalue(a: jax.Array) -> jax.Array:
    """Find the largest eigenvalue by the power iteration, until it changes by less than an absolute 1e-6."""
    start = np.random.RandomState(1729).uniform(-1, 1, a.shape[-1])
    zero = 0 * a[0, 0]

    def going(carry):
        steps, _, _, change = carry
        return (steps < _ITERATIONS) & (change > _TOLERANCE)

    def step(carry):
        steps, v, old, _ = carry
        v = v / jnp.linalg.norm(v)
        image = product(a, v[:, None])[:, 0]
        new = jnp.sum(v * image)
        return steps + 1, image, new, jnp.abs(new - old)

    return lax.while_loop(going, step, (0, jnp.asarray(start, a.dtype) + zero, zero, zero + jnp.inf))[2]


def _ridge(a: jax.Array, epsilon: float, relative: bool, floor: float) -> tuple[jax.Array, jax.Array]:
    """Return the largest eigenvalues and the ridges, `[M]`."""
    largest = jax.vmap(_largest_eigenvalue)(a)
    # Absolute is relative to 1 there, which the floor does not touch.
    return largest, epsilon * (jnp.maximum(largest, floor) if relative else jnp.ones_like(largest))


@described()
def google_eigh(
    epsilon: float = 1e-6, *, power: Powers = None, relative: bool = True, inverse_failure_threshold: float = 0.1
) -> Root:
    r"""Compute roots as `matrix_inverse_pth_root_eigh` does, by an eigendecomposition with a ridge.

    $$U \max(\Lambda, \rho)^{-1/p} U^\top \quad \text{of} \quad A + \rho I$$

    With $\rho = \epsilon \max(\lambda_{\max}, 10^{-6})$ and $\lambda_{\max}$ of a power iteration that stops at an
    absolute 1e-6. A root is refused where $\max |U^\top (A + \rho I) U - \Lambda|$, also absolute, is above the failure
    threshold.

    Args:
      epsilon: relative to the largest eigenvalue.
      power: $1/p$, as in `precond.inverse_root`.
      relative: off makes the ridge $\epsilon$ itself.
      inverse_failure_threshold: the largest error of a root that is not refused.

    Raises:
      ValueError, TypeError: for a negative epsilon or a power that is not positive.

    Examples:
      >>> root, factor = google_eigh(1.0, power=1.0), jnp.full((1, 1, 1), 4.0)
      >>> root.refresh(
      ...     factor, root.init(factor, (factor,)).derived[0], 1.0, True
      ... ).matrix.round(4).item()
      0.125
    """
    check_number("epsilon", epsilon, 0)
    check_number("inverse_failure_threshold", inverse_failure_threshold, 0, math.inf)

    def solve(a, power):
        largest, ridge = _ridge(a, epsilon, relative, floor=1e-6)
        damped = shifted(a, ridge[:, None, None])
        values, vectors = eigh(damped)
        half = vectors * (jnp.maximum(values, ridge[:, None]) ** (-float(power) / 2))[:, None, :]
        turned = product(jnp.swapaxes(vectors, 1, 2), product(damped, vectors))
        error = jnp.max(jnp.abs(turned - jax.vmap(jnp.diag)(values)), axis=(1, 2))
        return Solution(product(half, jnp.swapaxes(half, 1, 2)), error, largest, ridge)

    return plain_root(solve, power=power, tolerance=inverse_failure_threshold)


def _newton(a: jax.Array, p: int) -> tuple[jax.Array, jax.Array]:
    """Run the coupled iteration on one matrix; return the root and its largest `|M - I|`."""
    eye = jnp.eye(a.shape[-1], dtype=a.dtype)
    z = (1 + p) / (2 * jnp.linalg.norm(a))

    def distance(m):
        return jnp.max(jnp.abs(m - eye))

    def going(carry):
        steps, _, _, _, error, ratio = carry
        return (steps < _ITERATIONS) & (error > _TOLERANCE) & (ratio < _GROWTH)

    def step(carry):
        steps, m, x, _, error, _ = carry
        n = (1 + 1 / p) * eye - m / p
        m, new = product(matrix_power(n, p), m), product(x, n)
        return steps + 1, m, new, x, distance(m), distance(m) / error

    m, x = z * a, z ** (1 / p) * eye
    _, m, x, old, error, ratio = lax.while_loop(going, step, (0, m, x, x, distance(m), 0 * z))
    return jnp.where(ratio < _GROWTH, x, old), error


def _with_retries(a: jax.Array, ridge: jax.Array, p: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the root with the first ridge that gives a small error, of up to six, each ten times the last."""

    def going(carry):
        tries, _, error, _ = carry
        return (tries < _TRIES) & (error > _AGAIN)

    def attempt(carry):
        tries = carry[0]
        used = ridge * 10.0**tries
        root, error = _newton(shifted(a, used), p)
        return tries + 1, root, error, used

    return lax.while_loop(going, attempt, (0, a, ridge * 0 + jnp.inf, ridge))[1:]


@described()
def google_newton(
    epsilon: float = 1e-6, *, power: Powers = None, relative: bool = True, inverse_failure_threshold: float = 0.1
) -> Root:
    r"""Compute roots as `matrix_inverse_pth_root` does: by the coupled Newton iteration, with the reference's stops.

    It ends where $\max |M - I|$ is below 1e-6 or has grown by a fifth (the step before is then taken). An error
    above 0.05 asks for ten times the ridge, up to six times; one that stays above 0.1 refuses the root. The ridge is
    $\epsilon \max(\lambda_{\max}, 10^{-25})$, with the power iteration of `google_eigh`. A 1 by 1 factor is exact.

    Args:
      epsilon: relative to the largest eigenvalue.
      power: $1/p$ for an integer p, as in `precond.inverse_root`.
      relative: off makes the ridge $\epsilon$ itself.
      inverse_failure_threshold: the largest error of a root that is not refused.

    Raises:
      ValueError, TypeError: for a negative epsilon or a power that is not positive, or, when it is used, one that is
        not 1/p.

    Examples:
      >>> root, factor = google_newton(1.0, power=0.5), jnp.full((1, 1, 1), 2.0)
      >>> root.refresh(
      ...     factor, root.init(factor, (factor,)).derived[0], 0.5, True
      ... ).matrix.item()
      0.5
    """
    check_number("epsilon", epsilon, 0)
    check_number("inverse_failure_threshold", inverse_failure_threshold, 0, math.inf)

    def solve(a, power):
        if power.numerator != 1:
            raise ValueError(f"power={power}: google_newton() takes 1/p for an integer p; google_eigh() takes any.")
        largest, ridge = _ridge(a, epsilon, relative, floor=1e-25)
        if a.shape[-1] == 1:
            return Solution(shifted(a, ridge[:, None, None]) ** -float(power), 0 * ridge, largest, ridge)
        root, error, used = jax.vmap(lambda x, r: _with_retries(x, r, power.denominator))(a, ridge)
        return Solution(root, error, largest, used)

    return plain_root(solve, power=power, tolerance=inverse_failure_threshold)

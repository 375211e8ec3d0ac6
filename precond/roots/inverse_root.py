"""Multiply every axis by an inverse power of its factor: Shampoo's root."""

import math

import jax
import jax.numpy as jnp

from precond.arguments import check_number, check_part, described
from precond.linalg import multiply
from precond.roots.damping import Damping, relative
from precond.roots.guard import Checked, unchecked
from precond.roots.methods import Method, Ridge, RootResult, by_platform, composite, eigh
from precond.roots.padding import PADDING
from precond.roots.powers import Powers, powers
from precond.roots.refresh_inverse import refresh_inverse, whiten_by_matrix
from precond.roots.root import Factor, Power, Root, RootState
from precond.trees import Leaf

__all__ = ["inverse_root"]


@described()
def inverse_root(
    *,
    power: Powers = None,
    method: Method | None = None,
    damping: Damping | None = None,
    tolerance: float = 0.5,
) -> Root:
    r"""Multiply every axis of a block by an inverse root of its damped factor.

    For axis $i$ the root is $(L_i + \epsilon I)^{-q}$.

    $$P = G \times_1 (L_1 + \epsilon_1 I)^{-q} \cdots \times_k (L_k + \epsilon_k I)^{-q}, \qquad
      q = \frac{1}{2k}$$

    with k the number of axes that have a factor. A factor is divided by its largest entry before anything else, and its
    root is scaled back. So $X(cA) = c^{-q} X(A)$ with `relative` or `trace_damping`. The root of a zero factor is the
    identity; a 1 by 1 factor is exact.

    Args:
      power: q; or a function from k to q; or a mapping from the number of axes of a block to q, or to a mapping from an
        axis to its q (Meta's `inverse_exponent_override`). None is 1 / (2 k). In a mapping the number of axes includes
        those without a factor, and an axis that the mapping does not name has 1 over twice this number. All methods but
        `eigh()` read floats as fractions with a denominator of at most 64. The power cannot be injected by
        `optax.inject_hyperparams`.
      method: the method that computes roots: `precond.eigh()`, `precond.composite()` or `precond.newton()`. None takes
        the first on CPU and the second on other devices.
      damping: the damping of each factor: `precond.relative` (the default, with 1e-6), `precond.absolute` or
        `precond.roots.trace_damping`.
      tolerance: a bound of the residual of each new root, $\|X^{1/q} (L + \epsilon I) - I\|_2$ as estimated by
        `precond.linalg.root_residual`. A root with a larger residual is refused: its block keeps the last good root,
        and the damping of the next attempt is ten times as large. Infinity accepts every finite root. At a residual
        of 0.5, the default, a root with q = 1/4 is off by at most 16 % in every direction.

    Returns:
      A `Root`; between refreshes the matrices stay as they are. Its state contains the health of each
      (`precond.roots.Health`), which `precond.metrics` summarises.

    Raises:
      ValueError: for a power that is not positive, or a method that computes no roots.
      TypeError: for a power that is an array, or a method or damping of another kind.

    Reference:
      Gupta, Koren and Singer, Shampoo: Preconditioned Stochastic Tensor Optimization, 2018, Algorithm 2.

    Examples:
      >>> root = inverse_root(power=0.5, damping=relative(0.0))
      >>> factor = jnp.full((1, 1, 1), 4.0)
      >>> state = root.init(jnp.ones((1, 1)), (factor,))
      >>> root.refresh(factor, state.derived[0], 0.5, jnp.asarray(True)).matrix.item()
      0.5
    """
    method = by_platform(composite(), cpu=eigh()) if method is None else method
    damping = relative() if damping is None else damping
    check_part("method", method, Method, "precond.eigh()")
    check_part("damping", damping, Damping, "precond.relative(1e-6)")
    check_number("tolerance", tolerance, 0, math.inf)
    root_of = method.root
    if root_of is None:
        raise ValueError(f"method={method.name} computes no inverse roots: use precond.eigh() or precond.newton().")
    power_of = powers(power)

    def init(stack: Leaf, factors: tuple[Factor | None, ...]) -> RootState:
        del stack
        return RootState(tuple(None if f is None else unchecked(f) for f in factors), ())

    def refresh(factors: jax.Array, derived: Checked, power: Power, first: jax.Array) -> Checked:
        del first
        solve = _exact if factors.shape[-1] == 1 else root_of
        least = damping.least(factors.shape[-1])
        return refresh_inverse(solve, factors, derived, power, damping.ridge, least=least, tolerance=tolerance)

    def apply(direction: jax.Array, gradient: jax.Array, state: RootState) -> tuple[jax.Array, RootState]:
        del gradient
        return multiply(direction, [None if x is None else x.matrix for x in state.derived]), state

    return Root(init, refresh, apply, whiten_by_matrix, power_of, PADDING, symmetric=True)


def _exact(a: jax.Array, power: Power, ridge: Ridge, least: float) -> RootResult:
    """Compute the root of 1 by 1 factors exactly."""
    del least
    value = jnp.maximum(a[:, 0, 0], 0)
    added = ridge(value)
    return RootResult(((value + added) ** -float(power))[:, None, None], value, added, jnp.ones_like(value))

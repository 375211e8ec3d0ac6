"""Shampoo's root: every axis multiplied by an inverse power of its factor."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp

from precond.arguments import check_number
from precond.linalg import multiply
from precond.roots.damping import Damping, relative
from precond.roots.method import Method, eigh
from precond.roots.root import Root, RootState, identity_like

__all__ = ["inverse_root"]

Power = float | Fraction | Callable[[int], float | Fraction]


def inverse_root(
    *,
    power: Power | None = None,
    method: Method | None = None,
    damping: Damping | None = None,
) -> Root:
    r"""Multiply every axis $i$ of a block by $(L_i + \epsilon I)^{-q}$.

    $$P = G \times_1 (L_1 + \epsilon_1 I)^{-q} \cdots \times_k (L_k + \epsilon_k I)^{-q}, \qquad
      q = \frac{1}{2k}$$

    with k the number of axes that have a factor. A factor is divided by its largest entry before anything else and
    the root scaled back, so that with `relative` or `trace` damping $X(cA) = c^{-q} X(A)$. The root of a zero factor
    is the identity; a 1 by 1 factor is exact.

    Args:
      power: q, or a function from k to q. None takes 1 / (2 k). Floats are read as fractions for `newton()`
        (denominator at most 64). It cannot be injected by `optax.inject_hyperparams`.
      method: `precond.eigh()` (the default) or `precond.newton()`.
      damping: `precond.relative` (the default, with 1e-6), `precond.absolute` or `precond.trace`.

    Returns:
      A `Root`; between refreshes the matrices stay as they are.

    Raises:
      ValueError: for a power that is not positive, or a method that computes no roots.
      TypeError: for a power that is an array.

    Reference:
      Gupta, Koren and Singer, Shampoo: Preconditioned Stochastic Tensor Optimization, 2018, Algorithm 2.

    Examples:
      >>> root = inverse_root(power=0.5, damping=relative(0.0))
      >>> factor = jnp.full((1, 1, 1), 4.0)
      >>> root.refresh(factor, None, jnp.asarray([0.5]), jnp.asarray(True)).item()
      0.5
    """
    method = eigh() if method is None else method
    damping = relative() if damping is None else damping
    root_of = method.root
    if root_of is None:
        raise ValueError(f"method={method.name} computes no inverse roots: use precond.eigh() or precond.newton().")
    if power is not None and not callable(power):
        if isinstance(power, jax.Array):
            raise TypeError(
                "power is an array, but it chooses the iteration and must be a Python number. Under "
                "optax.inject_hyperparams, pass static_args=(*precond.STATIC_ARGS, 'power')."
            )
        check_number("power", power, 1 / 64, advice="The root is the factor to the power of minus this.")

    def power_of(order: int) -> float | Fraction:
        if power is None:
            return Fraction(1, 2 * order)
        return power(order) if callable(power) else power

    def init(stack: Any, factors: Sequence[Any]) -> RootState:
        del stack
        return RootState(tuple(None if f is None else identity_like(f) for f in factors), ())

    def refresh(factors: jax.Array, derived: Any, power: Any, first: Any) -> jax.Array:
        del derived, first
        peak = jnp.max(jnp.abs(factors), axis=(1, 2))
        scale = jnp.where(peak == 0, 1, peak)
        mean = jnp.trace(factors, axis1=1, axis2=2) / factors.shape[-1]

        def ridge(largest: jax.Array) -> jax.Array:
            return jnp.asarray(damping(largest * scale, mean)) / scale

        root = root_of(factors / scale[:, None, None], power, ridge)
        root = root * (scale ** -jnp.asarray(power, root.dtype))[:, None, None]
        return jnp.where((peak == 0)[:, None, None], identity_like(root), root)

    def apply(direction: jax.Array, gradient: jax.Array, state: RootState) -> Any:
        del gradient
        return multiply(direction, state.derived), state

    def whiten(derived: jax.Array, factor: jax.Array) -> jax.Array:
        del factor
        return derived

    return Root(init, refresh, apply, whiten, power_of, method.mixes_powers)

"""Divide factors by a power of their trace, in a transformation that is chained after a statistic."""

import jax
import jax.numpy as jnp
import optax

from precond.arguments import check_number, described
from precond.linalg import Factor, Packed, trace
from precond.linalg.align import per_row
from precond.trees import Factors

__all__ = ["scale_by_trace"]


@described()
def scale_by_trace(gamma: float = 0.5, *, eps: float = 1e-12) -> optax.GradientTransformation:
    r"""Divide every factor by a power of its trace.

    The scale is $L_i \, \max(\mathrm{tr} L_i, \epsilon)^{-\gamma}$.

    Args:
      gamma: $\gamma$; with 1/2 on both sides of a matrix, $L \otimes R / \mathrm{tr}$ estimates the covariance.
      eps: $\epsilon$, in the units of the factor; a zero factor stays zero.

    Returns:
      A stateless transformation of factors.

    Reference:
      Meta's `TraceScaling`; Morwani et al., A New Perspective on Shampoo's Preconditioner, 2024.

    Examples:
      >>> from precond import outer_products
      >>> from precond.linalg import dense
      >>> statistics = optax.chain(outer_products(1.0), scale_by_trace(1.0))
      >>> stacks = {"1x1": jnp.full((1, 1, 1), 3.0)}
      >>> dense(statistics.update(stacks, statistics.init(stacks))[0]["1x1"][0]).item()
      1.0
    """
    check_number("gamma", gamma, 0)
    check_number("eps", eps, 0)

    def scale(factors: Factors, params: optax.Params | None = None) -> Factors:
        del params

        def one(factor: Factor) -> Factor:
            scale = jnp.maximum(trace(factor), eps) ** -gamma
            return jax.tree.map(lambda x: x * per_row(scale, x.ndim), factor)

        return jax.tree.map(one, factors, is_leaf=lambda x: isinstance(x, Packed))

    return optax.stateless(scale)

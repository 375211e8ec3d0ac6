"""Second moments that were measured with the factors, in place of those of gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

__all__ = ["measured"]


def measured(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Give `inner` the extra argument `moments` where it looks for raw gradients; where there are none, NaN.

    `precond.layered` gives `moments`: of single examples' gradients, in the bases of the state. Around
    `precond.scale_by_kronecker` with `precond.corrected_inverse`, which takes a NaN for nothing seen.

    Args:
      inner: any transformation of stacks that takes `gradients`.

    Returns:
      A transformation of stacks.

    Raises:
      ValueError: in `update` for factors without second moments.

    Examples:
      >>> stacks = {"1x1": jnp.full((1, 1, 1), 3.0)}
      >>> tx = measured(optax.stateless(lambda updates, params: updates))
      >>> tx.update(stacks, tx.init(stacks), moments=None)[0]["1x1"].item()
      3.0
    """
    inner = optax.with_extra_args_support(inner)

    def update(updates: Any, state: Any, params: Any = None, *, moments: Any = None, **extra: Any) -> tuple[Any, Any]:
        if moments is None and extra.get("factors") is not None:
            raise ValueError(
                "factors= come without second moments, which EK-FAC divides by: give the functions of "
                "precond.layers.value_grad_factors and factors_alone the optimizer's state, as state=."
            )
        nothing = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), updates)
        extra["gradients"] = nothing if moments is None else moments
        return inner.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(inner.init, update)

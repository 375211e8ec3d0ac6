"""Second moments of draws from the Fisher matrix, in place of those of gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

__all__ = ["drawn"]


def drawn(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Give `inner` the extra argument `draws` as its raw gradients; where there are none, NaN.

    `precond.layered` gives `draws`: gradients of sampled targets, whose second moment is the Fisher matrix. Around
    `precond.scale_by_kronecker` with `precond.corrected_inverse`, which takes a NaN for nothing seen.

    Args:
      inner: any transformation of stacks that takes `gradients`.

    Returns:
      A transformation of stacks.

    Raises:
      ValueError: in `update` for factors without draws.

    Examples:
      >>> stacks = {"1x1": jnp.full((1, 1, 1), 3.0)}
      >>> tx = drawn(optax.stateless(lambda updates, params: updates))
      >>> tx.update(stacks, tx.init(stacks), draws=None)[0]["1x1"].item()
      3.0
    """
    inner = optax.with_extra_args_support(inner)

    def update(updates: Any, state: Any, params: Any = None, *, draws: Any = None, **extra: Any) -> tuple[Any, Any]:
        if draws is None and extra.get("factors") is not None:
            raise ValueError(
                "factors= come without draws, of which EK-FAC's second moments are made: capture them with "
                "precond.layers.value_grad_factors(.., fisher=precond.layers.sampled(..), draw=True)."
            )
        nothing = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), updates)
        extra["gradients"] = nothing if draws is None else draws
        return inner.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(inner.init, update)

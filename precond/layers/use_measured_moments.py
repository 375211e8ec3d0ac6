"""Use the second moments that were measured with the factors in place of those of gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from precond.arguments import described
from precond.blocks import BlockInfo, info_of

__all__ = ["use_measured_moments"]


@described()
def use_measured_moments(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Pass the measured second moments to `inner` in place of the raw gradients, and NaN if nothing was measured.

    `precond.by_layer` gives them (`precond.BlockInfo.captured_moments`): they are those of single examples' gradients,
    in the bases of the state. Put it around `precond.scale_by_kronecker` with `precond.corrected_inverse`, which takes
    a NaN for nothing seen.

    Args:
      inner: a transformation of stacks that reads the raw gradients (`precond.BlockInfo.gradients`).

    Returns:
      A transformation of stacks.

    Raises:
      ValueError: in `update` for factors without second moments.

    Examples:
      >>> stacks = {"1x1": jnp.full((1, 1, 1), 3.0)}
      >>> tx = use_measured_moments(optax.stateless(lambda updates, params: updates))
      >>> tx.update(stacks, tx.init(stacks))[0]["1x1"].item()
      3.0
    """
    inner = optax.with_extra_args_support(inner)

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        blocks: BlockInfo | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        info = info_of(blocks)
        if info.captured_moments is None and info.factors is not None:
            raise ValueError(
                "factors= come without second moments, which EK-FAC divides by: give the functions of "
                "precond.layers.value_grad_factors and factors_alone the optimizer's state, as state=."
            )
        nothing = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), updates)
        info = info._replace(gradients=nothing if info.captured_moments is None else info.captured_moments)
        return inner.update(updates, state, params, **extra, blocks=info)

    return optax.GradientTransformationExtraArgs(inner.init, update)

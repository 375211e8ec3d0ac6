"""Run nonlinear conjugate gradients without a line search: a momentum whose coefficient depends on the gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from precond.arguments import described
from precond.blocks import refuse_divided
from precond.transformation import transformation
from precond.trees import Tree, real_dtype, tree_product, wide_zeros_like

__all__ = ["Beta", "NLCGState", "fletcher_reeves", "polak_ribiere", "scale_by_nlcg"]

Beta = Callable[[Tree, Tree, Tree, Tree], jax.Array]
"""A function from the gradient, the preconditioned gradient, and these two of the step before, to the coefficient."""


class NLCGState(NamedTuple):
    """Hold the state of `scale_by_nlcg`.

    Attributes:
      count: the number of updates seen.
      gradient: the last gradient.
      scaled: the last gradient, preconditioned; None without a preconditioner.
      direction: the last direction.
      preconditioner: the state of the preconditioner.
    """

    count: jax.Array
    gradient: Tree
    scaled: Tree | None
    direction: Tree
    preconditioner: optax.OptState


def _ratio(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.where(y != 0, x / jnp.where(y != 0, y, 1), 0)


@described()
def polak_ribiere(gradient: Tree, scaled: Tree, last_gradient: Tree, last_scaled: Tree) -> jax.Array:
    r"""Choose β by the rule of Polak and Ribière (PR+), which restarts by itself.

    $$\beta = \max(0, \; z^\top (g - g_{-1}) / z_{-1}^\top g_{-1})$$

    Args:
      gradient: g.
      scaled: z, the gradient preconditioned.
      last_gradient: g of the step before.
      last_scaled: z of the step before.

    Examples:
      >>> g, last = jnp.asarray([0.0, 2.0]), jnp.asarray([1.0, 0.0])
      >>> polak_ribiere(g, g, last, last).item()
      4.0
    """
    change = tree_product(scaled, gradient) - tree_product(scaled, last_gradient)
    return jnp.maximum(0, _ratio(change, tree_product(last_scaled, last_gradient)))


@described()
def fletcher_reeves(gradient: Tree, scaled: Tree, last_gradient: Tree, last_scaled: Tree) -> jax.Array:
    r"""Choose β by the rule of Fletcher and Reeves; without a line search it grows with the gradients.

    $$\beta = z^\top g / z_{-1}^\top g_{-1}$$

    Args:
      gradient: g.
      scaled: z, the gradient preconditioned.
      last_gradient: g of the step before.
      last_scaled: z of the step before.

    Examples:
      >>> fletcher_reeves(
      ...     jnp.asarray([3.0]), jnp.asarray([3.0]), jnp.asarray([-1.0]), jnp.asarray([-1.0])
      ... ).item()
      9.0
    """
    return _ratio(tree_product(scaled, gradient), tree_product(last_scaled, last_gradient))


@described()
def scale_by_nlcg(
    beta: Beta = polak_ribiere, *, preconditioner: optax.GradientTransformation | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Compute the direction of nonlinear conjugate gradients, with inner products over the whole tree.

    $$z = P^{-1} g, \qquad d = z + \beta \, d_{-1}$$

    On a quadratic, with exact line searches, it finds the minimum of n parameters in n steps. With a learning rate in
    place of the line search it is momentum, whose coefficient is large while the gradient keeps changing along z.
    Nothing bounds β: if gradients jump from step to step, clip them first.

    Adya et al. train with large batches in this way; we have read their abstract alone. The form with one gradient,
    without a line search, and the choice of β are ours.

    Args:
      beta: a function from the gradients to the coefficient: `precond.contrib.polak_ribiere`,
        `precond.contrib.fletcher_reeves` or your own.
      preconditioner: a transformation, $P^{-1}$ (`optax.scale_by_adam(b1=0)`); None is the identity.

    Returns:
      A transformation; updates have the dtype of the gradients, and the signs of gradients.

    Reference:
      Adya, Palakkode and Tuzel, Nonlinear Conjugate Gradients For Scaling Synchronous Distributed DNN Training, 2018
      (second-hand); Nocedal and Wright, Numerical Optimization, 2006, chapter 5.2.

    Examples:
      >>> tx, g = scale_by_nlcg(fletcher_reeves), jnp.asarray([1.0, 0.0])
      >>> _, state = tx.update(g, tx.init(g))
      >>> tx.update(jnp.asarray([0.0, 2.0]), state)[0].tolist()
      [4.0, 2.0]
    """
    plain = preconditioner is None
    scale = optax.with_extra_args_support(optax.identity() if preconditioner is None else preconditioner)

    def init(params: optax.Params) -> NLCGState:
        gradient, direction = wide_zeros_like(params), wide_zeros_like(params)
        scaled = None if plain else wide_zeros_like(params)
        return NLCGState(jnp.zeros([], jnp.int32), gradient, scaled, direction, scale.init(params))

    def update(
        updates: optax.Updates, state: NLCGState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, NLCGState]:
        refuse_divided("scale_by_nlcg", extra.get("blocks"))
        g = jax.tree.map(lambda x, last: jnp.asarray(x, last.dtype), updates, state.gradient)
        scaled, inner = scale.update(updates, state.preconditioner, params, **extra)
        z = g if plain else jax.tree.map(lambda x, last: x.astype(last.dtype), scaled, state.gradient)
        # In the first step the last gradients are zeros, and so is the coefficient.
        coefficient = beta(g, z, state.gradient, state.gradient if state.scaled is None else state.scaled)
        coefficient = jnp.where(state.count > 0, coefficient, 0)

        def step(x: jax.Array, last: jax.Array) -> jax.Array:
            return x + coefficient.astype(real_dtype(x)) * last

        d = jax.tree.map(step, z, state.direction)
        out = jax.tree.map(lambda x, u: x.astype(jnp.result_type(u)), d, updates)
        count = jnp.asarray(optax.safe_increment(state.count))
        return out, NLCGState(count, g, None if plain else z, d, inner)

    return transformation(init, update)

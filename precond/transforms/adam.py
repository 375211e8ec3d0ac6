"""Run Adam with a count for each parameter, for the parameters without a view."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike

from precond.blocks import leaves_of
from precond.linalg.average import may_grow, weighted, weights_of
from precond.linalg.divide import divide_or_zero
from precond.linalg.hidden_constants import hidden_constants
from precond.transformation import transformation
from precond.trees import Tree, common_dtype, wide_zeros_like

__all__ = ["AdamState", "adam"]


class AdamState(NamedTuple):
    """Hold the state of `adam`.

    Attributes:
      count: the number of updates that each parameter has seen, in the order of sorted paths, `[n]`. It is one
        array, not a tree like the parameters, so that nothing shards it as they are. A parameter that begins later
        than others, after `precond.checkpoints.adopt`, has the right bias correction.
      momentum: the average of the gradients, free of the bias of its start, float32 or wider.
      nu: the average of their squares, free of the bias of its start, or their sum; float32 or wider.
    """

    count: jax.Array
    momentum: Tree
    nu: Tree


def adam(b1: ArrayLike, b2: ArrayLike, eps: ArrayLike | None) -> optax.GradientTransformationExtraArgs:
    """Divide the momentum by the root of the mean squares of the gradient, as `optax.scale_by_adam` does.

    A `b2` of 1 sums the squares, which is AdaGrad. Optax would divide 0 by 0. Each parameter has its own count.

    Args:
      b1: decay of the momentum.
      b2: decay of the squares.
      eps: the epsilon of the denominator; None is 1e-15.

    Examples:
      >>> tx, g = adam(0.9, 1.0, 0.0), jnp.asarray([3.0, -4.0])
      >>> tx.update(g, tx.init(g))[0].round(5).tolist()
      [1.0, -1.0]
    """
    eps = 1e-15 if eps is None else eps

    def init(params: optax.Params) -> AdamState:
        count = jnp.zeros(len(jax.tree.leaves(params)), jnp.int32)
        return AdamState(count, wide_zeros_like(params), jax.tree.map(jnp.real, wide_zeros_like(params)))

    def update(
        updates: optax.Updates, state: AdamState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, AdamState]:
        del params, extra
        count, dtype, paths = jnp.asarray(optax.safe_increment(state.count)), common_dtype(state.nu), leaves_of(updates)
        places = dict(zip(sorted(paths), hidden_constants(range(len(paths))), strict=True))

        def averaged(old: Tree, new: Tree, decay: ArrayLike) -> Tree:
            # Weights are computed for all parameters together, and parameters of one shape share their kernels.
            both = [jnp.broadcast_to(jnp.asarray(x, dtype), count.shape) for x in weights_of(decay, dtype, count=count)]

            def one(path: str, x: jax.Array, y: jax.Array) -> jax.Array:
                keep, rate = (lax.dynamic_index_in_dim(w, places[path], keepdims=False) for w in both)
                return weighted(x, y, keep if may_grow(decay) else 1 - rate, rate, grows=may_grow(decay))

            leaves = map(one, paths, jax.tree.leaves(old), jax.tree.leaves(new))
            return jax.tree.unflatten(jax.tree.structure(updates), list(leaves))

        def divide(g: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
            positive = v > 0
            root = jnp.where(positive, jnp.sqrt(jnp.where(positive, v, 1)), 0)  # at 0 it has no derivative
            return divide_or_zero(m, root + eps).astype(jnp.result_type(g))

        squares = jax.tree.map(lambda v, g: jnp.square(jnp.abs(g).astype(v.dtype)), state.nu, updates)
        momentum, nu = averaged(state.momentum, updates, b1), averaged(state.nu, squares, b2)
        return jax.tree.map(divide, updates, momentum, nu), AdamState(count, momentum, nu)

    return transformation(init, update)

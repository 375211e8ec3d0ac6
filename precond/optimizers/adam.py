"""Run Adam for the parameters without a view."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike

from precond.blocks import leaves_of
from precond.linalg import average
from precond.linalg.divide import divide_or_zero
from precond.linalg.hidden_constants import hidden_constants
from precond.transformation import transformation
from precond.trees import Leaf, Tree, common_dtype, real_dtype, wide_zeros_like

__all__ = ["AdamState", "adam"]


class AdamState(NamedTuple):
    """Hold the state of `adam`.

    Attributes:
      count: the number of updates that each parameter has seen, in the order of sorted paths, `[n]`. So a parameter
        that begins later than others, after `precond.checkpoints.adopt`, has the right bias correction.
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
        def zeros(p: Leaf) -> jax.Array:
            return jnp.zeros_like(p, jnp.promote_types(jnp.float32, real_dtype(p)))  # sharded as the parameter is

        count = jnp.zeros(len(jax.tree.leaves(params)), jnp.int32)
        return AdamState(count, wide_zeros_like(params), jax.tree.map(zeros, params))

    def update(
        updates: optax.Updates, state: AdamState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, AdamState]:
        del params, extra
        count, dtype, paths = jnp.asarray(optax.safe_increment(state.count)), common_dtype(state.nu), leaves_of(updates)
        places = dict(zip(sorted(paths), hidden_constants(range(len(paths))), strict=True))
        zeros = jnp.zeros(count.shape, dtype)

        def weights(decay: ArrayLike) -> tuple[Tree, Tree]:
            """Return by parameter the weights of an average so far and of a new term."""
            # They are computed for all parameters together, and parameters of one shape share their kernels.
            both = [average(x, 1 - x, decay, count=count) for x in (1 + zeros, zeros)]
            treedef = jax.tree.structure(updates)
            index = lax.dynamic_index_in_dim
            keep, rate = (treedef.unflatten([index(x, places[path], keepdims=False) for path in paths]) for x in both)
            return keep, rate

        def mean(old: jax.Array, new: jax.Array, keep: jax.Array, rate: jax.Array) -> jax.Array:
            return average(old, new, keep.astype(real_dtype(old)), rate)

        def divide(g: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
            root = jnp.where(v > 0, jnp.sqrt(jnp.where(v > 0, v, 1)), 0)  # at 0 it has no derivative
            return divide_or_zero(m, root + eps).astype(jnp.result_type(g))

        squares = jax.tree.map(lambda v, g: jnp.square(jnp.abs(g).astype(v.dtype)), state.nu, updates)
        momentum = jax.tree.map(mean, state.momentum, updates, *weights(b1))
        nu = jax.tree.map(mean, state.nu, squares, *weights(b2))
        return jax.tree.map(divide, updates, momentum, nu), AdamState(count, momentum, nu)

    return transformation(init, update)

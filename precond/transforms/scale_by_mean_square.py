"""Run RMSProp with one second moment for each parameter or block."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_decay, described
from precond.blocks import BlockInfo, info_of, refuse_stacks
from precond.linalg import average
from precond.transformation import transformation
from precond.trees import Leaf, Tree, real_dtype, wide_dtype

__all__ = ["MeanSquareState", "scale_by_mean_square"]


class MeanSquareState(NamedTuple):
    """Hold the state of `scale_by_mean_square`.

    Attributes:
      count: the number of updates seen.
      nu: the mean squares, a number for each parameter, float32 or wider.
    """

    count: jax.Array
    nu: Tree


@described(sign=1, explain=True)
def scale_by_mean_square(decay: ArrayLike = 0.95) -> optax.GradientTransformationExtraArgs:
    r"""Divide each parameter's momentum by the root mean square of its gradients.

    $$v \leftarrow \beta v + (1 - \beta) \, \mathrm{mean}(G \odot G), \qquad P = \frac{M}{\sqrt{v / (1 - \beta^t)}}$$

    The norm of P is close to that of Adam's update, and it takes one number in place of Adam's second moments. So it is
    a magnitude for `precond.graft` and the aliases. They give it one block at a time. Inside `precond.blocked` put it
    into `precond.per_block`.

    Args:
      decay: $\beta$, of the mean squares.

    Returns:
      A transformation; updates have the dtype of the gradients. If v is 0, so is the update. If a momentum is chained
      before (see `precond.with_momentum`), the squares are those of the raw gradients; else M is the gradient itself.

    Raises:
      ValueError, TypeError: for a decay out of range; in `update`, for stacks.

    Reference:
      Ginsburg et al., Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep Networks, 2019,
      which divides before its momentum.

    Examples:
      >>> tx, g = scale_by_mean_square(), jnp.asarray([3.0, -3.0, 0.0, 0.0])
      >>> [round(x, 4) for x in tx.update(g, tx.init(g))[0].tolist()]
      [1.4142, -1.4142, 0.0, 0.0]
    """
    check_decay("decay", decay)

    def init(params: optax.Params) -> MeanSquareState:
        def zero(p: Leaf) -> jax.Array:
            return jnp.zeros([], jnp.promote_types(jnp.float32, real_dtype(p)))

        return MeanSquareState(jnp.zeros([], jnp.int32), jax.tree.map(zero, params))

    def update(
        updates: optax.Updates,
        state: MeanSquareState,
        params: optax.Params | None = None,
        *,
        blocks: BlockInfo | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, MeanSquareState]:
        del params, extra
        refuse_stacks("scale_by_mean_square", blocks)
        count = jnp.asarray(optax.safe_increment(state.count))

        def accumulate(v: jax.Array, g: jax.Array) -> jax.Array:
            squares = jnp.square(jnp.abs(g.astype(wide_dtype(g))))
            return average(v, jnp.sum(squares) / max(g.size, 1), decay, count=count)

        def divide(m: jax.Array, v: jax.Array) -> jax.Array:
            inverse = jnp.where(v > 0, jax.lax.rsqrt(jnp.where(v > 0, v, 1)), 0)
            return (m * inverse.astype(wide_dtype(m))).astype(m.dtype)

        nu = jax.tree.map(accumulate, state.nu, info_of(blocks).raw(updates))
        return jax.tree.map(divide, updates, nu), MeanSquareState(count, nu)

    return transformation(init, update)

"""Choose K-FAC's step size, which keeps the model's predictions from moving too far."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_number, check_rate, described
from precond.blocks import BlockInfo, info_of
from precond.transformation import transformation
from precond.trees import tree_product

__all__ = ["ClipByKlState", "clip_by_kl"]


class ClipByKlState(NamedTuple):
    r"""Hold the state of `clip_by_kl`.

    Attributes:
      count: the number of updates so far in which some block was finite.
      inner: the state of the inner transformation.
      kl: $\frac12 \eta^2 v^\top \hat F v$ of the last update, after clipping.
    """

    count: jax.Array
    inner: optax.OptState
    kl: jax.Array


@described()
def clip_by_kl(
    inner: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    bound: optax.ScalarOrSchedule = 1e-3,
) -> optax.GradientTransformationExtraArgs:
    r"""Shorten the update so that a step moves the model's predictions little.

    The update is $v = \hat F^{-1} m$, and the step is $\eta v$.

    $$v \leftarrow v \, \min\Big(1, \sqrt{\frac{c_k}{\eta^2 \, v^\top m}}\Big)$$

    The product $v^\top m$ is $v^\top \hat F v$ with the damped matrix that was inverted. So the Kullback-Leibler
    divergence between the predictions before and after the step is about $\frac12 \eta^2 v^\top \hat F v \le c_k / 2$.
    With the learning rate behind it this is the step $\min(\eta, \sqrt{c_k / v^\top \hat F v})$ of Ba et al. It is a
    wrapper, since it needs both sides of the preconditioner, and the product is that of the whole tree. A momentum
    around it (`precond.with_momentum`) is bounded with the step; a momentum behind it moves further.

    Args:
      inner: a transformation that multiplies its updates by a positive definite matrix.
      learning_rate: $\eta$, the learning rate that is applied later; a number or a schedule.
      bound: $c_k$, a number or a schedule; in the paper $0.01 \cdot 0.96^k$, k counted up every half epoch
        (`optax.exponential_decay(0.01, half, 0.96, staircase=True)`).

    Returns:
      A transformation. An update without a positive product is left as it is.

    Raises:
      ValueError, TypeError: for a negative number.

    Reference:
      Ba, Grosse and Martens, 2017, equations 13 and 14.

    Examples:
      >>> tx = clip_by_kl(optax.scale(0.25), learning_rate=1.0, bound=0.04)
      >>> g = jnp.asarray([0.8])
      >>> round(tx.update(g, tx.init(g))[0].item(), 4)  # v = 0.2, v g = 0.16
      0.1
    """
    check_rate("learning_rate", learning_rate)
    if not callable(bound):
        check_number("bound", bound, 0, math.inf)
    inner = optax.with_extra_args_support(inner)

    def at(value: optax.ScalarOrSchedule, count: jax.Array) -> ArrayLike:
        return value(count) if callable(value) else value

    def init(params: optax.Params) -> ClipByKlState:
        return ClipByKlState(jnp.zeros([], jnp.int32), inner.init(params), jnp.zeros([]))

    def update(
        updates: optax.Updates,
        state: ClipByKlState,
        params: optax.Params | None = None,
        *,
        blocks: BlockInfo | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, ClipByKlState]:
        info = info_of(blocks)
        moved, after = inner.update(updates, state.inner, params, **extra, blocks=info)

        # Inside `blocked` with an axis these are the blocks of one device.
        whole = info.collectives.psum(tree_product(moved, updates))
        divergence = whole * jnp.square(at(learning_rate, state.count))
        limit = at(bound, state.count)
        ratio = jnp.where(divergence > limit, jnp.sqrt(limit / jnp.where(divergence > limit, divergence, 1)), 1)
        out = jax.tree.map(lambda v: v * ratio.astype(v.dtype), moved)
        kl = (divergence * ratio**2 / 2).astype(state.kl.dtype)
        return out, ClipByKlState(info.advance(state.count), after, kl)

    return transformation(init, update)

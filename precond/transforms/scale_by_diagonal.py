"""Divide a gradient by the root of its accumulated square: AdaGrad, RMSProp and Adam as one rule."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_flag, check_number, check_transformation, described
from precond.blocks import BlockInfo, info_of, report_average
from precond.linalg import average
from precond.transformation import transformation
from precond.trees import Leaf, Tree, real_dtype

__all__ = ["DiagonalState", "scale_by_diagonal"]


class DiagonalState(NamedTuple):
    """Hold the state of `scale_by_diagonal`.

    Attributes:
      count: the number of updates seen.
      nu: the accumulated squares, float32 or wider.
      momentum: the state of the momentum.
    """

    count: jax.Array
    nu: Tree
    momentum: optax.OptState


@described(sign=1, explain=True)
def scale_by_diagonal(
    decay: ArrayLike = 1.0,
    *,
    eps: ArrayLike = 1e-10,
    weight: ArrayLike | None = None,
    bias_correction: bool = False,
    power: ArrayLike = 0.5,
    momentum: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Divide the momentum by the root of the accumulated squares of the gradient.

    $$V \leftarrow \beta V + w \, G \odot G, \qquad P = \frac{M}{(V / c)^{q} + \epsilon}, \quad q = \frac12$$

    It exists for the grafting of the reference Shampoos: AdaGrad with $\epsilon$ outside the root, and any of the three
    with a momentum inside. If Optax has the method (`optax.scale_by_adam`, `optax.scale_by_rms`), use Optax's.

    Args:
      decay: $\beta$; 1 sums (AdaGrad), less than 1 averages (RMSProp, Adam).
      eps: $\epsilon$, in the units of the gradient.
      weight: w; None takes $1 - \beta$, or 1 for a sum.
      bias_correction: $c = 1 - \beta^t$ in place of 1, for the default weight.
      power: q. With 1 this is the natural gradient of a diagonal Fisher matrix. With n times the weight, for batches of
        n examples, and a damping for $\epsilon$, it is kfac-jax's `NaiveDiagonal`, for `otherwise=` of `precond.kfac`.
      momentum: a transformation from G to M; None takes the gradient itself.

    Returns:
      A transformation; updates have the dtype of the gradients. If the denominator is 0, so is the update. If a
      momentum is chained before (see `precond.with_momentum`), the squares are those of the raw gradients.

    Raises:
      ValueError, TypeError: for a number out of range.

    Examples:
      >>> tx, g = scale_by_diagonal(eps=0.0), jnp.asarray([3.0, -4.0, 0.0])
      >>> tx.update(g, tx.init(g))[0].tolist()
      [1.0, -1.0, 0.0]
    """
    check_number("decay", decay, 0, 1, advice="1 sums, less than 1 averages.")
    check_number("eps", eps, 0)
    check_number("power", power, 0)
    if weight is not None:
        check_number("weight", weight, 0)
    if momentum is not None:
        check_transformation("momentum", momentum)
    check_flag("bias_correction", bias_correction)
    momentum = optax.with_extra_args_support(optax.identity() if momentum is None else momentum)

    def init(params: optax.Params) -> DiagonalState:
        report_average("squares", decay, debiased=bias_correction and weight is None)

        def zeros(p: Leaf) -> jax.Array:
            return jnp.zeros_like(p, jnp.promote_types(jnp.float32, real_dtype(p)))  # sharded as the parameter is

        nu = jax.tree.map(zeros, params)
        return DiagonalState(jnp.zeros([], jnp.int32), nu, momentum.init(params))

    def update(
        updates: optax.Updates,
        state: DiagonalState,
        params: optax.Params | None = None,
        *,
        blocks: BlockInfo | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, DiagonalState]:
        info = info_of(blocks)
        count = jnp.asarray(optax.safe_increment(state.count))
        numerators, velocity = momentum.update(updates, state.momentum, params, **extra, blocks=info)

        def accumulate(v: jax.Array, g: jax.Array) -> jax.Array:
            debiased = count if bias_correction and weight is None else None
            return average(v, jnp.square(jnp.abs(g).astype(v.dtype)), decay, weight, count=debiased)

        def divide(g: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
            there = jnp.where(v > 0, v, 1)  # at 0 it has a derivative
            root = jnp.sqrt(there) if isinstance(power, float) and power == 0.5 else there**power
            denominator = jnp.where(v > 0, root, 0) + eps
            safe = jnp.where(denominator > 0, denominator, 1)
            return jnp.where(denominator > 0, m / safe, 0).astype(jnp.result_type(g))

        nu = jax.tree.map(accumulate, state.nu, info.raw(updates))
        out = jax.tree.map(divide, updates, numerators, nu)
        return out, DiagonalState(count, nu, velocity)

    return transformation(init, update)

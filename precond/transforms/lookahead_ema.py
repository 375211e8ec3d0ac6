"""Filter gradients as Meta does: by a debiased moving average that may lean towards the newest gradient."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_decay, described
from precond.transformation import transformation
from precond.trees import Tree, wide_zeros_like

__all__ = ["LookaheadEmaState", "lookahead_ema"]


class LookaheadEmaState(NamedTuple):
    """Hold the state of `lookahead_ema`.

    Attributes:
      count: the number of updates seen.
      ema: the moving average in float32 or wider, before bias correction.
    """

    count: jax.Array
    ema: Tree


@described(explain=True)
def lookahead_ema(
    b1: ArrayLike = 0.9, b3: ArrayLike | None = None, *, bias_correction: bool = True
) -> optax.GradientTransformationExtraArgs:
    r"""Average the gradients without the bias of the start, leaning towards the newest one.

    $$\tilde G = \frac{\beta_3 M + (1 - \beta_3) G}{1 - \beta_3 \beta_1^{t-1}}, \qquad
      M \leftarrow \beta_1 M + (1 - \beta_1) G$$

    With $\beta_3 = \beta_1$ this is `optax.ema(b1)`; with $\beta_3 = \beta_1^2$ it is NAdam's look-ahead, which Meta's
    winning AlgoPerf submission uses.

    Args:
      b1: $\beta_1$, the decay of the average.
      b3: $\beta_3$, the weight of the average in the update; None takes `b1`.
      bias_correction: divide by $1 - \beta_3 \beta_1^{t-1}$.

    Returns:
      A transformation, for `momentum=` of `precond.scale_by_kronecker` and `precond.transforms.scale_by_diagonal`.

    Raises:
      ValueError, TypeError: for a number that is not at least 0 and below 1.

    Examples:
      >>> tx, g = lookahead_ema(0.9, 0.81), jnp.ones(())
      >>> tx.update(g, tx.init(g))[0].item()
      1.0
    """
    b3 = b1 if b3 is None else b3
    check_decay("b1", b1)
    check_decay("b3", b3)

    def init(params: optax.Params) -> LookaheadEmaState:
        return LookaheadEmaState(jnp.zeros([], jnp.int32), wide_zeros_like(params))

    def update(
        updates: optax.Updates, state: LookaheadEmaState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, LookaheadEmaState]:
        del params, extra

        def blend(weight: ArrayLike, m: jax.Array, g: jax.Array) -> jax.Array:
            weight = jnp.asarray(weight, m.dtype)
            return (weight * m + (1 - weight) * g).astype(m.dtype)

        def lean(m: jax.Array, g: jax.Array) -> jax.Array:
            missing = b3 * jnp.asarray(b1, m.dtype) ** state.count.astype(m.dtype)
            leaning = blend(b3, m, g)
            return (leaning / (1 - missing) if bias_correction else leaning).astype(g.dtype)

        out = jax.tree.map(lean, state.ema, updates)
        ema = jax.tree.map(lambda m, g: blend(b1, m, g), state.ema, updates)
        return out, LookaheadEmaState(jnp.asarray(optax.safe_increment(state.count)), ema)

    return transformation(init, update)

"""Average gradients as NAdam does: one step ahead, and free of the bias of the start."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_decay, described
from precond.transformation import transformation
from precond.trees import Tree, wide_zeros_like

__all__ = ["NesterovState", "nesterov"]


class NesterovState(NamedTuple):
    """Hold the state of `nesterov`.

    Attributes:
      count: the number of updates seen.
      momentum: the moving average in float32 or wider, before bias correction.
    """

    count: jax.Array
    momentum: Tree


@described(explain=True)
def nesterov(decay: ArrayLike = 0.95) -> optax.GradientTransformationExtraArgs:
    r"""Average gradients, and weigh the newest once more.

    $$M_t = \beta M_{t-1} + (1 - \beta) G_t, \qquad
      U_t = \frac{\beta M_t}{1 - \beta^{t+1}} + \frac{(1 - \beta) G_t}{1 - \beta^t}$$

    It is the momentum of `optax.contrib.muon` and of `optax.adam(nesterov=True)`. `optax.trace(decay, nesterov=True)`
    goes the same way but for the bias of the start. Its ratio of $M$ and $G$ is another one in the first steps.

    Args:
      decay: $\beta$.

    Returns:
      A transformation; inside `precond.blocked` put it into `precond.per_block`.

    Raises:
      ValueError, TypeError: for a number outside [0, 1).

    Reference:
      Dozat, Incorporating Nesterov Momentum into Adam, 2016.

    Examples:
      >>> tx, g = nesterov(0.5), jnp.ones(())
      >>> round(tx.update(g, tx.init(g))[0].item(), 4)  # 0.5 * 0.5 / 0.75 + 0.5 / 0.5
      1.3333
    """
    check_decay("decay", decay)

    def init(params: optax.Params) -> NesterovState:
        return NesterovState(jnp.zeros([], jnp.int32), wide_zeros_like(params))

    def update(
        updates: optax.Updates, state: NesterovState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, NesterovState]:
        del params, extra
        count = jnp.asarray(optax.safe_increment(state.count))

        def average(g: jax.Array, m: jax.Array) -> jax.Array:
            return jnp.asarray(decay * m + (1 - decay) * g.astype(m.dtype), m.dtype)

        def ahead(g: jax.Array, m: jax.Array) -> jax.Array:
            b, t = jnp.asarray(decay, m.dtype), count.astype(m.dtype)
            return jnp.asarray(b * m / (1 - b ** (t + 1)) + (1 - b) * g / (1 - b**t), g.dtype)

        momentum = jax.tree.map(average, updates, state.momentum)
        return jax.tree.map(ahead, updates, momentum), NesterovState(count, momentum)

    return transformation(init, update)

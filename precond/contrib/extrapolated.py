"""Take gradients at parameters that are extrapolated from the last gradient."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from precond.arguments import described
from precond.large_batches import Displacement, eval_params
from precond.transformation import transformation
from precond.trees import wide_zeros_like

__all__ = ["ExtrapolatedState", "extrapolated"]


class ExtrapolatedState(NamedTuple):
    """Hold the state of `extrapolated`.

    Attributes:
      count: the number of updates seen.
      displacement: the displacement of the parameters, from the iterate to the point where the gradient is taken.
      optimizer: the state of the optimizer.
      ahead: the state of the extrapolation.
    """

    count: jax.Array
    displacement: Displacement
    optimizer: optax.OptState
    ahead: optax.OptState


@described()
def extrapolated(
    optimizer: optax.GradientTransformation, ahead: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    r"""Give an optimizer the gradient at a point ahead, to which the gradient before it leads.

    $$y_t = w_t + A(g_{t-1}), \qquad g_t = \nabla f(y_t), \qquad w_{t+1} = w_t + U(g_t)$$

    with $U$ the optimizer's step. The training loop holds y and takes its gradient there, without a second gradient in
    a step. `precond.large_batches.eval_params` returns w. With $A(g) = U(g) = -\eta g$ this is optimistic gradient
    descent, which converges on bilinear games where gradient descent does not.

    The method is that of Lin et al., of whom we have read the abstract and summaries. There each worker extrapolates by
    its own last gradient, or by noise. Here, under data parallelism, the gradient is the mean over all workers.

    Args:
      optimizer: an optimizer, with its learning rate; it sees the iterate w as parameters.
      ahead: a transformation from the gradient to the displacement: `optax.scale(-0.1)`, of the size of the learning
        rate; `optax.chain(optax.set_to_zero(), optax.add_noise(..))` for noise.

    Returns:
      An optimizer, which must be last in its chain. If `update` gets no parameters, neither does the inner optimizer.

    Reference:
      Lin et al., Extrapolation for Large-batch Training in Deep Learning, 2020 (second-hand).

    Examples:
      >>> tx, w = extrapolated(optax.sgd(0.5), optax.scale(-0.5)), jnp.asarray(1.0)
      >>> updates, state = tx.update(w, tx.init(w), w)
      >>> y = optax.apply_updates(w, updates)
      >>> import precond
      >>> y.item(), precond.large_batches.eval_params(state, y).item()
      (0.0, 0.5)
    """
    optimizer, ahead = optax.with_extra_args_support(optimizer), optax.with_extra_args_support(ahead)

    def init(params: optax.Params) -> ExtrapolatedState:
        displacement = Displacement(jnp.ones([], jnp.float32), wide_zeros_like(params))
        return ExtrapolatedState(jnp.zeros([], jnp.int32), displacement, optimizer.init(params), ahead.init(params))

    def update(
        updates: optax.Updates, state: ExtrapolatedState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, ExtrapolatedState]:
        updates, before = jax.tree.map(jnp.asarray, updates), state.displacement.direction
        iterate = None if params is None else eval_params(state.displacement, params)
        step, first = optimizer.update(updates, state.optimizer, iterate, **extra)
        further, second = ahead.update(updates, state.ahead, iterate, **extra)
        after = jax.tree.map(lambda x, d: x.astype(d.dtype), further, before)
        out = jax.tree.map(lambda u, a, b, g: (u + (a - b)).astype(g.dtype), step, after, before, updates)
        count = jnp.asarray(optax.safe_increment(state.count))
        return out, ExtrapolatedState(count, state.displacement._replace(direction=after), first, second)

    return transformation(init, update)

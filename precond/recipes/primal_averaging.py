"""Average the iterates as Meta does: by Generalised Primal Averaging and Schedule-Free."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from precond.arguments import check_number, check_rate, described
from precond.transformation import transformation
from precond.trees import Tree, wide_zeros_like

__all__ = ["AveragingState", "averaged_params", "primal_averaging", "with_decay"]


class AveragingState(NamedTuple):
    """Hold the state of `primal_averaging`.

    Attributes:
      count: updates seen.
      total: the sum of the powers of the learning rate.
      ahead: Z - Y, by how much the iterate is ahead of the parameters.
    """

    count: jax.Array
    total: jax.Array
    ahead: Tree


@described(explain=True)
def primal_averaging(
    train: float = 0.8, evaluation: float | None = 0.9, *, learning_rate: optax.ScalarOrSchedule = 1.0, power: float = 2
) -> optax.GradientTransformation:
    r"""Train at a point between the iterate and its average; chain this last.

    The point is $Y = \mu_y X + (1 - \mu_y) Z$, with X the average of what the updates make of Z.

    $$Z \leftarrow Z + U, \qquad X \leftarrow \mu_x X + (1 - \mu_x) Z$$

    The parameters are Y; kept is $Z - Y$, which begins at zero, so that neither needs the parameters. The place to
    evaluate is X: `averaged_params`. With constant numbers this is Generalised Primal Averaging: $\mu_y = 1$ is a heavy
    ball and $\mu_y = \mu_x$ is Nesterov's, each with $1 / (1 - \mu_x)$ times the learning rate. With `evaluation=None`
    it is Schedule-Free, $\mu_x = 1 - \eta_t^2 / \sum_{s \le t} \eta_s^2$.

    Args:
      train: $\mu_y$ (`train_interp_coeff`), above 0.
      evaluation: $\mu_x$ (`eval_interp_coeff`); None takes Schedule-Free's.
      learning_rate: $\eta$ of the updates, a number or a schedule, for Schedule-Free alone.
      power: the power of the learning rate (`eval_coeff_lr_power`).

    Raises:
      ValueError, TypeError: for a number out of range.

    Reference:
      Defazio et al., The Road Less Scheduled, 2024, equation 23; Meta's `GeneralizedPrimalAveragingConfig`.

    Examples:
      >>> tx, u = primal_averaging(1.0, 0.5), jnp.ones(())
      >>> first, state = tx.update(u, tx.init(u))
      >>> first.item(), tx.update(u, state)[0].item()
      (0.5, 0.75)
    """
    check_number("train", train, 0, 1)
    if train == 0:
        raise ValueError("train=0: must be above 0; without averaging, leave primal_averaging() out.")
    if evaluation is not None:
        check_number("evaluation", evaluation, 0, 1)
    check_rate("learning_rate", learning_rate)
    check_number("power", power, 0)

    def init(params: optax.Params) -> AveragingState:
        return AveragingState(jnp.zeros([], jnp.int32), jnp.zeros([]), wide_zeros_like(params))

    def update(
        updates: optax.Updates, state: AveragingState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, AveragingState]:
        del params, extra
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        weight = jnp.asarray(rate, state.total.dtype) ** power
        total = state.total + weight
        keep = 1 - weight / jnp.where(total > 0, total, 1) if evaluation is None else jnp.asarray(evaluation)

        def move(u: jax.Array, ahead: jax.Array) -> jax.Array:
            mu = keep.astype(ahead.dtype)
            return ((1 - mu) * ahead + (1 - mu * train) * u.astype(ahead.dtype)).astype(u.dtype)

        def follow(u: jax.Array, ahead: jax.Array) -> jax.Array:
            return keep.astype(ahead.dtype) * (ahead + train * u.astype(ahead.dtype))

        out, ahead = (jax.tree.map(f, updates, state.ahead) for f in (move, follow))
        return out, AveragingState(jnp.asarray(optax.safe_increment(state.count)), total, ahead)

    return transformation(init, update)


def with_decay(
    averaging: optax.GradientTransformation, weight_decay: optax.ScalarOrSchedule
) -> optax.GradientTransformationExtraArgs:
    r"""Shrink the iterate of an averaging before every step.

    $$Z \leftarrow (1 - \lambda) Z$$

    Weight decay in front of the averaging would shrink it towards 0 from Y, and move Y by more.

    Args:
      averaging: the result of `primal_averaging`, which is chained last.
      weight_decay: $\lambda$, the learning rate times the decay: a number or a schedule.

    Raises:
      ValueError: in `init`, for an averaging that keeps no $Z - Y$.

    Examples:
      >>> tx, w = with_decay(primal_averaging(0.5, 0.5), 0.5), jnp.ones(())
      >>> # Z falls from 1 to 0.5, and Y half as far.
      >>> tx.update(jnp.zeros(()), tx.init(w), w)[0].item()
      -0.25
    """
    averaging = optax.with_extra_args_support(averaging)

    def init(params: optax.Params) -> AveragingState:
        state = averaging.init(params)
        if not isinstance(state, AveragingState):
            raise ValueError(f"averaging={averaging!r}: must be recipes.primal_averaging(), for decay shrinks its Z.")
        return state

    def update(
        updates: optax.Updates, state: AveragingState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, AveragingState]:
        if params is None:
            raise ValueError("Weight decay needs the parameters: call update(updates, state, params).")
        share = weight_decay(state.count) if callable(weight_decay) else weight_decay

        def shrunk(ahead: jax.Array, y: jax.Array) -> jax.Array:
            return (ahead - share * (y + ahead)).astype(ahead.dtype)

        state = state._replace(ahead=jax.tree.map(shrunk, state.ahead, params))
        out, new = averaging.update(updates, state, params, **extra)
        assert isinstance(new, AveragingState)
        return out, new

    return transformation(init, update)


@described()
def averaged_params(state: optax.OptState, params: Tree, train: float = 0.8) -> Tree:
    r"""Return the average, which is the place to evaluate.

    $$X = Y - (Z - Y) (1 - \mu_y) / \mu_y$$

    Args:
      state: the state of an optimizer with `primal_averaging` in it.
      params: the parameters, Y.
      train: as given to `primal_averaging`.

    Examples:
      >>> tx, w = primal_averaging(0.5, 0.5), jnp.zeros(())
      >>> update, state = tx.update(jnp.ones(()), tx.init(w))
      >>> averaged_params(state, w + update, 0.5).item()  # half way to Z = 1
      0.5
    """
    ahead = optax.tree.get(state, "ahead")
    return jax.tree.map(lambda y, d: y - d * (1 - train) / train, params, ahead)

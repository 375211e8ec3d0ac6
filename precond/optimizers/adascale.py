"""Put AdaScale around an optimizer."""

from collections.abc import Callable

import jax
import optax
from jax.typing import ArrayLike

from precond.arguments import called, check_optimizer, check_transformation, described
from precond.large_batches import GainEstimator, scale_by_adascale
from precond.trees import Tree
from precond.widened import widened

__all__ = ["adascale"]


@described(sign=-1)
def adascale(
    optimizer: Callable[[float], optax.GradientTransformation],
    schedule: optax.ScalarOrSchedule,
    scale: ArrayLike,
    *,
    estimator: GainEstimator | None = None,
    power: float = 1.0,
    rule: Callable[[jax.Array, jax.Array, jax.Array], ArrayLike] | None = None,
    groups: Callable[[Tree], Tree] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Train with S times the batch: multiply the learning rate of the base batch by AdaScale's gain.

    $$r_t = \frac{\sigma_t^2 + \mu_t^2}{\sigma_t^2 / S + \mu_t^2}, \quad w \leftarrow w + r_t \,
      \mathrm{lr}(\lfloor \tau_t \rfloor) \, u_t, \quad \tau_{t+1} = \tau_t + r_t$$

    with $u_t$ the optimizer's update for the learning rate 1. Momentum and decoupled weight decay stay what they are
    for the base batch.

    Args:
      optimizer: makes one from a learning rate: `optax.sgd`, `functools.partial(optax.sgd, momentum=0.9)`,
        `precond.shampoo`. It must be linear in the learning rate, as Optax's usual ones are, and `precond.kfac` is with
        `bound=math.inf`.
      schedule: lr of the base batch, without warm-up; a number or an Optax schedule of scale-invariant steps.
      scale: S, at least 1; also an extra argument of `update`, where it changes during training.
      estimator: as in `precond.scale_by_adascale`.
      power: the power of the gain in the learning rate: 1 for SGD, 1/2 for Adam and its kin.
      rule: another factor of the learning rate, as in `precond.scale_by_adascale`.
      groups: as in `precond.scale_by_adascale`.

    Returns:
      An Optax optimizer, whose `update` takes the extra argument `replicas` (`precond.replicas`). Train until
      `precond.large_batches.done(state, total)`. Under `optax.inject_hyperparams` pass
      `static_args=("optimizer", "schedule", "estimator", "power", "rule", "groups")`, which leaves `scale` to be
      changed.

    Raises:
      ValueError, TypeError: for numbers out of range, or an optimizer that is made already.

    Reference:
      Johnson, Agrawal, Gu and Guestrin, AdaScale SGD: A User-Friendly Algorithm for Distributed Training, 2020,
      algorithm 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond import replicas
      >>> f = replicas.over_groups(replicas.gradients(lambda w, x: jnp.mean((w - x) ** 2)), 4)
      >>> tx, params = adascale(optax.sgd, 0.1, scale=4), jnp.zeros(())
      >>> value, mean, statistics = f(params, jnp.arange(8.0))
      >>> updates, state = tx.update(mean, tx.init(params), params, replicas=statistics)
      >>> params = optax.apply_updates(params, updates)
    """
    if isinstance(optimizer, optax.GradientTransformation) or not callable(optimizer):
        raise TypeError(
            "optimizer= must make an optimizer from a learning rate, as optax.sgd does: pass optax.sgd, not "
            "optax.sgd(0.1), and give it other arguments by functools.partial(optax.sgd, momentum=0.9)."
        )
    scaled = scale_by_adascale(schedule, scale, estimator=estimator, power=power, rule=rule, groups=groups)
    made = called("optimizer", optimizer, 1.0)
    check_transformation("optimizer(1.0)", made)
    return check_optimizer(widened(optax.chain(made, scaled)), **{"optimizer(1.0)": made})

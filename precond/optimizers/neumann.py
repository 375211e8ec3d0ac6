"""Run the Neumann optimizer as its paper's Table 1 sets it."""

from collections.abc import Callable

import jax
import optax

from precond.arguments import check_idle, check_mask, check_rate, described
from precond.blocks import refuse_foreign
from precond.large_batches import convexify, growing_momentum, scale_by_neumann
from precond.optimizers.finish import decayed
from precond.transforms import finite_steps
from precond.trees import Mask, Tree
from precond.widened import widened

__all__ = ["neumann"]


@described(sign=-1)
def neumann(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: optax.ScalarOrSchedule | None = None,
    cubic: float | jax.Array | None = 1e-7,
    repulsion: float | jax.Array | None = 1e-5,
    variables: Callable[[Tree], int] | None = None,
    decay: jax.typing.ArrayLike = 0.99,
    warmup: int | jax.Array = 5,
    resets: int | jax.Array = 10,
    epoch: int | jax.Array = 1,
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Mask = None,
    axis: str | tuple[str, ...] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Train with the Neumann optimizer: let Nesterov's momentum grow and restart, away from the weights' average.

    $$d = g + \lambda w + \Big(\alpha r^2 - \frac{\beta n}{r^2}\Big) \frac{w - v}{r}, \quad m \leftarrow \mu m - \eta d,
      \quad w \leftarrow w + \mu m - \eta d, \quad v \leftarrow \gamma v + (1 - \gamma) w$$

    with $r = \|w - v\|$. The gradient is that at the displaced parameters $w$, which the training loop holds; evaluate
    `precond.large_batches.eval_params(state, params)`, $w - \mu m$. The constants are the paper's, where the lengths of
    time are epochs: give `epoch`, or they are counted in updates. Only the learning rate is to be tuned.

    Without the regularizer this is Nesterov's momentum, and steps to a loss are about as many: fewer than SGD's
    where batches are large, and no fewer where they are small (`examples/neumann_batch_sizes.py` counts them). It does
    not precondition. In a run of few epochs the warm-up is most of it: count the times in updates then.
    See `precond.scale_by_neumann` for every choice that the paper leaves open. With the push (`repulsion`) the
    weights do not settle unless the learning rate falls. After one very large gradient later steps are as much larger,
    as with any momentum, until it is reset. Put `optax.clip_by_global_norm` in front if that can happen.

    Args:
      learning_rate: $\eta$, of SGD's size; a number or an Optax schedule.
      momentum: $\mu$, a number or a schedule; None is `precond.large_batches.growing_momentum`, from 0.5 to 0.9 in 9
        epochs.
      cubic: $\alpha$; None leaves the term out.
      repulsion: $\beta$; None leaves the term out.
      variables: a function from the parameters to n; None counts tensors, `optax.tree.size` numbers.
      decay: $\gamma$.
      warmup: epochs of plain SGD at first.
      resets: the momentum is reset after so many epochs, then after twice as many, and so on.
      epoch: the number of updates in an epoch.
      weight_decay: $\lambda$, added to the gradient as in SGD, a number or an Optax schedule; None leaves it out.
      mask: which parameters decay, as in `optax.add_decayed_weights`.
      axis: the mesh axes over which parameters are sharded, inside the user's own `jax.shard_map` or `jax.pmap`, as in
        `precond.large_batches.convexify`.

    Returns:
      An Optax optimizer; `update` needs the parameters. A gradient that is not finite is skipped, and does not count.

    Raises:
      ValueError, TypeError: for numbers out of range or of a wrong type; for `variables` beside `repulsion=None`, and
        for a `decay` if there is no regularizer, which have no effect.

    Reference:
      Krishnan, Xiao and Saurous, Neumann Optimizer: A Practical Optimization Algorithm for Deep Neural Networks, 2018.

    Examples:
      >>> import jax.numpy as jnp
      >>> import precond
      >>> tx = neumann(0.1, epoch=100)
      >>> params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> params = optax.apply_updates(params, updates)
      >>> final = precond.large_batches.eval_params(state, params)
    """
    check_rate("learning_rate", learning_rate)
    if cubic is None and repulsion is None:
        check_idle("cubic=None and repulsion=None", decay=(decay, 0.99))
    away = convexify(cubic, repulsion, variables=variables, axis=axis)
    step: optax.GradientTransformation = scale_by_neumann(
        learning_rate,
        momentum=growing_momentum(epoch=epoch) if momentum is None else momentum,
        regularizer=None if cubic is None and repulsion is None else away,
        decay=decay,
        warmup=warmup * epoch,
        resets=resets * epoch,
    )
    check_mask(mask, weight_decay)
    if weight_decay is not None:
        step = widened(optax.chain(decayed(weight_decay, mask), step))
    return refuse_foreign(finite_steps(step, axis=axis or None))

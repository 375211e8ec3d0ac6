"""Chain what all methods of Meta's PyTorch Distributed Shampoo have around their direction."""

from collections.abc import Callable, Sequence

import jax
import optax

from precond.arguments import check_number, check_rate, check_whole
from precond.blocks import ragged, tensors
from precond.engine import RefreshSchedule, blocked, every, per_block
from precond.mesh import Sharded
from precond.recipes.primal_averaging import with_decay
from precond.recipes.scaled_decay import scaled_decay
from precond.transforms import graft, lookahead_ema, with_momentum

__all__ = ["meta_chain"]


def meta_chain(
    direction: Callable[[RefreshSchedule], optax.GradientTransformation],
    learning_rate: optax.ScalarOrSchedule,
    *,
    beta1: float,
    bias_correction: bool,
    beta3: float | None = None,
    grafting: optax.GradientTransformation | None = None,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    averaging: optax.GradientTransformation | None = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    decoupled_weight_decay: bool = True,
    max_preconditioner_dim: int | None = 1024,
    target_dimensionality: int | None = None,
    precondition_frequency: int = 1,
    start_preconditioning_step: int | None = None,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Put filter, graft, blocks, decay, momentum, learning rate and averaging around a direction.

    Args:
      direction: a function from the schedule of refreshes to a transformation of blocks.
      learning_rate: a number or a schedule.
      beta1: the decay of the filter.
      bias_correction: whether the filter is freed of the bias of its start.
      beta3: as in `meta_shampoo`, and so are all others.
      grafting: see there.
      momentum: see there.
      dampening: see there.
      nesterov: see there.
      averaging: see there.
      weight_decay: see there.
      decoupled_weight_decay: see there.
      max_preconditioner_dim: see there.
      target_dimensionality: see there.
      precondition_frequency: see there.
      start_preconditioning_step: see there.
      axis: see there.
      mesh: see there.

    Examples:
      >>> tx = meta_chain(
      ...     lambda _: optax.scale_by_sign(), 0.5, beta1=0.0, bias_correction=True
      ... )
      >>> w = jax.numpy.asarray([2.0, -3.0])
      >>> tx.update(w, tx.init(w), w)[0].tolist()
      [-0.5, 0.5]
    """
    check_rate("learning_rate", learning_rate)
    check_number("beta1", beta1, 0, 1)
    if start_preconditioning_step is not None:
        check_whole("start_preconditioning_step", start_preconditioning_step, least=1)
    if momentum and averaging is not None:
        raise ValueError(f"momentum={momentum} and averaging={averaging!r}: the reference has one of the two; choose.")
    start = precondition_frequency if start_preconditioning_step is None else start_preconditioning_step
    tx = direction(every(precondition_frequency, start=start, phase=0))
    if grafting is not None:
        tx = graft(tx, grafting, start=start, eps=1e-16)
    if beta1:
        tx = with_momentum(per_block(lookahead_ema(beta1, beta3, bias_correction=bias_correction)), tx)
    decay = optax.add_decayed_weights(weight_decay)
    heavy_ball = optax.chain(optax.scale(1 - dampening), optax.trace(momentum, nesterov))
    cut = None if max_preconditioner_dim is None else ragged(max_preconditioner_dim)
    merge = 0 if target_dimensionality is None else max_preconditioner_dim
    views = tensors(squeeze=True, merge=merge, target=target_dimensionality)
    none = isinstance(weight_decay, (int, float)) and weight_decay == 0  # and no number that is traced
    if averaging is not None and decoupled_weight_decay and not none:
        averaging, decay = with_decay(averaging, scaled_decay(weight_decay, learning_rate)), optax.identity()
    return optax.chain(
        optax.identity() if decoupled_weight_decay else decay,
        blocked(tx, block_size=cut, views=views, axis=axis, mesh=mesh),
        decay if decoupled_weight_decay else optax.identity(),
        heavy_ball if momentum else optax.identity(),
        optax.scale_by_learning_rate(learning_rate),
        optax.identity() if averaging is None else averaging,
    )

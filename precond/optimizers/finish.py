"""How every alias ends: weight decay, then the learning rate."""

from typing import Any

import jax
import optax

from precond.arguments import check_number

__all__ = ["finish"]


def finish(
    scaled: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: float | jax.Array | None,
    mask: Any,
) -> optax.GradientTransformationExtraArgs:
    """`scaled`, then decoupled weight decay (None: none, and `params` is not needed), then the learning rate.

    Raises:
      ValueError, TypeError: for a learning rate or weight decay that is no number, or negative.

    Examples:
      >>> tx = finish(optax.identity(), 0.5, None, None)
      >>> tx.update(2.0, tx.init(2.0))[0]
      -1.0
    """
    if not callable(learning_rate):
        check_number("learning_rate", learning_rate, 0)
    decay = optax.identity()
    if weight_decay is not None:
        check_number("weight_decay", weight_decay, 0)
        decay = optax.add_decayed_weights(weight_decay, mask)
    return optax.chain(scaled, decay, optax.scale_by_learning_rate(learning_rate))

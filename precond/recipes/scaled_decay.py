"""Scale weight decay by the learning rate."""

import optax

__all__ = ["scaled_decay"]


def scaled_decay(weight_decay: optax.ScalarOrSchedule, learning_rate: optax.ScalarOrSchedule) -> optax.ScalarOrSchedule:
    """Multiply a weight decay by a learning rate; either may be a schedule.

    Examples:
      >>> scaled_decay(0.5, 2.0), scaled_decay(lambda step: 1.0 + step, 2.0)(1)
      (1.0, 4.0)
    """
    if not callable(learning_rate) and not callable(weight_decay):
        return weight_decay * learning_rate
    decay, rate = (x if callable(x) else optax.constant_schedule(x) for x in (weight_decay, learning_rate))
    return lambda step: decay(step) * rate(step)

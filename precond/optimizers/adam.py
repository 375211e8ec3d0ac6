"""Run Adam for the parameters without a view."""

import jax
import optax

from precond.transforms import scale_by_diagonal, with_momentum

__all__ = ["adam"]


def adam(
    b1: jax.typing.ArrayLike, b2: jax.typing.ArrayLike, eps: jax.typing.ArrayLike | None
) -> optax.GradientTransformation:
    """Divide the momentum by the root of the mean squares of the gradient, as `optax.scale_by_adam` does.

    A `b2` of 1 sums the squares, which is AdaGrad. Optax would divide 0 by 0.

    Args:
      b1: decay of the momentum.
      b2: decay of the squares.
      eps: the epsilon of the denominator; None is 1e-15.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx, g = adam(0.9, 1.0, 0.0), jnp.asarray([3.0, -4.0])
      >>> tx.update(g, tx.init(g))[0].round(5).tolist()
      [1.0, -1.0]
    """
    denominator = scale_by_diagonal(b2, eps=1e-15 if eps is None else eps, bias_correction=True)
    return with_momentum(optax.ema(b1), denominator)

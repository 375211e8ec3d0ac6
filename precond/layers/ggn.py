"""Products with the Gauss-Newton matrix of the whole network, without ever having it."""

from collections.abc import Callable
from typing import Any

import jax

__all__ = ["ggn_product"]


def ggn_product(forward: Callable[[Any], Any], loss: Callable[[Any], jax.Array], params: Any) -> Callable[[Any], Any]:
    r"""A function from v to $J^\top H J v$, with J the Jacobian of the outputs and H the Hessian of the loss by them.

    For softmax and sigmoid cross-entropy and squared error it is the Fisher matrix of the predictions, divided by the
    number of examples that the loss is a mean of. The model is to be without taps: give it parameters without probes.

    Args:
      forward: from parameters to outputs: `lambda params: model.apply({"params": params}, x)`.
      loss: from outputs to a scalar.
      params: where.

    Returns:
      A function of trees: `curvature=` of `precond.transforms.quadratic_model` and
      `precond.transforms.levenberg_marquardt`.

    Reference:
      Schraudolph, Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent, 2002.

    Examples:
      >>> import jax.numpy as jnp
      >>> product = ggn_product(lambda w: 3 * w, lambda outputs: jnp.sum(outputs**2), jnp.ones(2))
      >>> product(jnp.asarray([1.0, 2.0])).tolist()  # 3 * 2 * 3
      [18.0, 36.0]
    """
    outputs, back = jax.vjp(forward, params)

    def product(v: Any) -> Any:
        moved = jax.jvp(forward, (params,), (v,))[1]
        return back(jax.jvp(jax.grad(loss), (outputs,), (moved,))[1])[0]

    return product

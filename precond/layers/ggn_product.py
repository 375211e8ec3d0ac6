"""Products with the Gauss-Newton matrix of the whole network, without ever forming it."""

from collections.abc import Callable

import jax

from precond.trees import Tree

__all__ = ["ggn_product"]


def ggn_product(
    forward: Callable[[Tree], Tree], loss: Callable[[Tree], jax.Array], params: Tree
) -> Callable[[Tree], Tree]:
    r"""Return the function that multiplies a vector by the Gauss-Newton matrix of the whole network.

    It takes v to $J^\top H J v$.

    J is the Jacobian of the outputs by the parameters, and H the Hessian of the loss by the outputs.
    For softmax and sigmoid cross-entropy and squared error this is the Fisher matrix of the predictions, divided by the
    number of examples over which the loss is a mean. The model must be without taps: give it parameters without probes.

    Args:
      forward: from parameters to outputs: `lambda params: model.apply({"params": params}, x)`.
      loss: from outputs to a scalar.
      params: the parameters at which the matrix is taken.

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

    def product(v: Tree) -> Tree:
        moved = jax.jvp(forward, (params,), (v,))[1]
        return back(jax.jvp(jax.grad(loss), (outputs,), (moved,))[1])[0]

    return product

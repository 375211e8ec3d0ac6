"""Multiply by the Gauss-Newton and the empirical Fisher matrix of the whole network, without ever forming them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from precond.trees import Tree

__all__ = ["empirical_product", "ggn_product"]


def ggn_product(
    forward: Callable[[Tree], Tree], loss: Callable[[Tree], jax.Array], params: Tree
) -> Callable[[Tree], Tree]:
    r"""Return the function that multiplies a vector by the Gauss-Newton matrix of the whole network.

    It takes v to $J^\top H J v$.

    J is the Jacobian of the outputs by the parameters, and H the Hessian of the loss by the outputs.
    For softmax and sigmoid cross-entropy and squared error this is the Fisher matrix of the predictions, divided by the
    number of examples over which the loss is a mean. The model must be without taps: give it parameters without probes.

    Args:
      forward: a function from parameters to outputs: `lambda params: model.apply({"params": params}, x)`.
      loss: a function from outputs to a scalar.
      params: the parameters at which the matrix is taken.

    Returns:
      A function of trees: `curvature=` of `precond.transforms.quadratic_model` and
      `precond.transforms.levenberg_marquardt`.

    Reference:
      Schraudolph, Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent, 2002.

    Examples:
      >>> product = ggn_product(
      ...     lambda w: 3 * w, lambda outputs: jnp.sum(outputs**2), jnp.ones(2)
      ... )
      >>> product(jnp.asarray([1.0, 2.0])).tolist()  # 3 * 2 * 3
      [18.0, 36.0]
    """
    outputs, back = jax.vjp(forward, params)

    def product(v: Tree) -> Tree:
        moved = jax.jvp(forward, (params,), (v,))[1]
        return back(jax.jvp(jax.grad(loss), (outputs,), (moved,))[1])[0]

    return product


def empirical_product(losses: Callable[[Tree], jax.Array], params: Tree) -> Callable[[Tree], Tree]:
    r"""Return the function that multiplies a vector by the empirical Fisher matrix of the whole network.

    It takes v to $\frac{1}{n} \sum_i g_i g_i^\top v$, with $g_i$ the gradient of the loss of example i. For the
    expected Fisher matrix use `ggn_product`, which is the same for the usual losses, and for the Hessian
    `lambda v: jax.jvp(jax.grad(loss), (params,), (v,))[1]`.

    Args:
      losses: a function from parameters to the losses of the examples, `[n]`.
      params: the parameters at which the matrix is taken.

    Returns:
      A function of trees, as that of `ggn_product`.

    Raises:
      ValueError: for losses that are not a vector.

    Examples:
      >>> x = jnp.asarray([[1.0, 0.0], [1.0, 2.0]])
      >>> empirical_product(lambda w: x @ w, jnp.ones(2))(jnp.asarray([1.0, 0.0])).tolist()
      [1.0, 1.0]
    """
    each, back = jax.vjp(losses, params)
    if jnp.ndim(each) != 1:
        raise ValueError(f"losses= gave the shape {jnp.shape(each)}, where one loss for each example belongs: [n].")

    def product(v: Tree) -> Tree:
        return back(jax.jvp(losses, (params,), (v,))[1] / each.size)[0]

    return product

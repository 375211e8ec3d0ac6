"""Return the parameters to evaluate, if training runs ahead of its iterate."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_values, described
from precond.trees import Tree, find_nodes, real_dtype

__all__ = ["Displacement", "eval_params"]


class Displacement(NamedTuple):
    """Hold how far the parameters are ahead of the iterate: by `scale * direction`.

    Attributes:
      scale: a number.
      direction: a tree like the parameters.
    """

    scale: jax.Array
    direction: Tree


@described()
def eval_params(state: optax.OptState, params: Tree) -> Tree:
    r"""Return the iterate itself, for optimizers that take gradients at a point ahead of it.

    The parameters are $w$, and the iterate is $w - s d$.

    Methods that look ahead (`precond.neumann`, `precond.contrib.extrapolated`) keep the displaced parameters in the
    training loop, so that the loop's gradient is the one that they need. Evaluate and export the result of this
    function.

    Args:
      state: the state of an optimizer that looks ahead, alone or in any of Optax's wrappers.
      params: the parameters of the training loop.

    Returns:
      Parameters in their own dtypes. Leaves whose displacement is masked stay as they are.

    Raises:
      ValueError: if nothing in the state is a displacement.

    Reference:
      Krishnan, Xiao and Saurous, Neumann Optimizer, 2018, Algorithm 2, last line.

    Examples:
      >>> import precond
      >>> tx = precond.scale_by_neumann(0.1, regularizer=None, warmup=0)
      >>> params = jnp.asarray([1.0])
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> moved = optax.apply_updates(params, updates)
      >>> # The second number is what gradient descent gives.
      >>> (
      ...     round(moved.item(), 6),
      ...     round(eval_params(state, moved).item(), 6),
      ... )
      (0.85, 0.9)
    """
    check_values(state=state, params=params)
    found = find_nodes(state, Displacement)
    if not found:
        raise ValueError(
            "eval_params() found no displacement in this state: its optimizer does not look ahead. Evaluate "
            "the parameters as they are. The order of arguments is eval_params(state, params)."
        )
    for scale, direction in found:

        def back(d: jax.Array | optax.MaskedNode, p: ArrayLike, scale: jax.Array = scale) -> ArrayLike:
            if isinstance(d, optax.MaskedNode):
                return p
            p = jnp.asarray(p)
            return (p - scale.astype(real_dtype(d)) * d).astype(p.dtype)

        params = jax.tree.map(back, direction, params, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
    return params

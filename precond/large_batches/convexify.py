"""Add the Neumann optimizer's regularizer: a cubic pull towards a moving average of the weights, and a push away."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_bound, check_idle, check_number, described
from precond.replicas.replicas import sum_over_axes
from precond.trees import Tree, tree_product, varying

__all__ = ["Regularizer", "convexify"]

Regularizer = Callable[[Tree, Tree], Tree]
"""A function from the parameters and their moving average, a tree like them, to a gradient that is added."""


def _tensors(tree: Tree) -> int:
    return len(jax.tree.leaves(tree))


@described()
def convexify(
    cubic: ArrayLike | None = 1e-7,
    repulsion: ArrayLike | None = 1e-5,
    *,
    variables: Callable[[Tree], int] | None = None,
    by_tensor: bool = False,
    eps: ArrayLike = 1e-3,
    axis: str | tuple[str, ...] | None = None,
) -> Regularizer:
    r"""Make the gradient of a penalty that keeps the weights near their average, but not on it.

    The penalty is $\frac{\alpha}{3} \|w - v\|^3 + \frac{\beta n}{\|w - v\|}$, with v the average of the weights.

    $$\Big(\alpha r^2 - \frac{\beta n}{r^2}\Big) \frac{w - v}{r}, \qquad r = \|w - v\|$$

    The cubic term pulls towards the average, the other term pushes away from it. With the paper's constants the first
    is negligible below $r \approx 1000$, and the second keeps the weights from settling. However small the gradient is,
    they stay about $(\eta \beta n / ((1 - \mu)(1 - \gamma)))^{1/3}$ away from their average, until the learning rate
    falls. If you want a low training loss, leave it out by `repulsion=None`.

    Args:
      cubic: $\alpha$; None leaves the term out.
      repulsion: $\beta$; None leaves the term out.
      variables: a function from the parameters to n, the paper's "number of variables". The paper does not say whether
        these are tensors or numbers. None counts tensors. `optax.tree.size` counts numbers, as most public
        implementations do; for a network this makes the push thousands of times stronger.
      by_tensor: take norm and n for each tensor by itself. The paper takes them for all parameters together.
      eps: below this r the push falls linearly to 0. The paper's push has no value at r = 0, where the first step
        starts.
      axis: the mesh axes over which parameters are sharded, inside the user's own `jax.shard_map` or `jax.pmap`. The
        norm is then that of all shards. With `check_vma` (the default), types tell which parameters are not sharded.
        Without it, all must be. `()` gives every device a norm of its own. `variables` sees the shards of one device.

    Returns:
      A function of the parameters and their average, for `regularizer=` of `precond.scale_by_neumann`.

    Raises:
      ValueError, TypeError: for a negative number, or an `eps` of 0; for `variables` and an `eps` beside
        `repulsion=None`, where they have no effect; in a call without `axis`, for parameters that
        differ between the devices of a mesh axis.

    Reference:
      Krishnan, Xiao and Saurous, Neumann Optimizer, 2018, equation 8 and Table 1.

    Examples:
      >>> gradient = convexify(cubic=1.0, repulsion=8.0)
      >>> gradient(jnp.asarray([2.0, 0.0]), jnp.zeros(2)).tolist()  # 2^2 - 8 / 2^2
      [2.0, 0.0]
    """
    for name, value in (("cubic", cubic), ("repulsion", repulsion)):
        if value is not None:
            check_number(name, value, 0, advice="None leaves the term out.")
    check_number("eps", eps, 0)
    if not isinstance(eps, jax.Array) and eps == 0:
        raise ValueError("eps=0: must be above 0, since the push has no direction if the weights equal their average.")
    if repulsion is None:
        check_idle("repulsion=None", variables=(variables, None), eps=(eps, 1e-3))
    count = _tensors if variables is None else variables

    def pull(offset: Tree) -> Tree:
        square, n = _square(offset, axis), count(offset)
        check_number("variables(params)", n, 0)
        # The square root has no derivative at 0, where the first step starts; nothing is multiplied by it there.
        r = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
        factor = jnp.zeros_like(r)
        if cubic is not None:
            factor += jnp.asarray(cubic, r.dtype) * r
        if repulsion is not None:
            factor -= jnp.asarray(repulsion, r.dtype) * n / jnp.maximum(r, jnp.asarray(eps, r.dtype)) ** 3
        return jax.tree.map(lambda x: (factor * x).astype(x.dtype), offset)

    def gradient(params: Tree, average: Tree) -> Tree:
        offset = optax.tree.sub(params, average)
        return jax.tree.map(pull, offset) if by_tensor else pull(offset)

    return gradient


def _square(tree: Tree, axis: str | tuple[str, ...] | None) -> jax.Array:
    """Return the squared norm of a tree whose leaves may be sharded over mesh axes."""
    axes = (axis,) if isinstance(axis, str) else axis
    check_bound(axes or ())
    found = frozenset[str]().union(*(varying(x) for x in jax.tree.leaves(tree)))
    if axes is None and found:
        raise ValueError(
            f"convexify() takes the norm of all parameters, and these differ between the devices of {sorted(found)}: "
            f"pass axis={tuple(sorted(found))} if they are sharded there, or axis=() if each device trains a model."
        )

    def over(x: jax.Array) -> tuple[str, ...]:
        return tuple(name for name in axes or () if name in varying(x) or not found)

    squares = jax.tree.map(lambda x: tree_product(x, x), tree)
    whole = sum_over_axes(squares, jax.tree.map(over, tree)) if axes else squares
    return sum(jax.tree.leaves(whole), jnp.zeros([]))

"""Choose the learning rate and momentum that minimise a quadratic model of the loss in each step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import MissingArgumentError, check_number, described
from precond.blocks import refuse_divided
from precond.linalg.divide import divide_or_zero
from precond.transformation import transformation
from precond.trees import Tree, all_finite, tree_product

__all__ = ["Product", "QuadraticModelState", "quadratic_model"]

Product = Callable[[Tree], Tree]
"""A function from a tree v like the parameters to F v, as `precond.layers.ggn_product` computes it."""


class QuadraticModelState(NamedTuple):
    r"""Hold the state of `quadratic_model`.

    Attributes:
      count: the number of updates so far.
      inner: the state of the direction.
      previous: the last update.
      learning_rate: $-\alpha$ of the last update.
      momentum: $\mu$ of the last update.
    """

    count: jax.Array
    inner: optax.OptState
    previous: Tree
    learning_rate: jax.Array
    momentum: jax.Array


@described(explain=True)
def quadratic_model(
    direction: optax.GradientTransformation,
    damping: ArrayLike = 0.0,
    *,
    learning_rate: ArrayLike | None = None,
    momentum: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Choose the learning rate and the momentum that minimise a quadratic model of the loss.

    The update is $\delta = \alpha \Delta + \mu \delta_0$.

    Let $\Delta$ be the direction, $\delta_0$ the update before this one, g the gradient and F a curvature matrix (the
    Gauss-Newton or Fisher matrix of the whole network, not its approximation). The model is

    $$\min_{\alpha, \mu} \; g^\top \delta + \tfrac12 \, \delta^\top (F + \lambda I) \, \delta$$

    This is a system of two equations for the learning rate and the momentum of each step. If $\delta_0$ is 0, or
    parallel to $\Delta$ up to rounding, there is one equation for $\alpha$. The update is a whole step: chain no
    scaling behind it, and no momentum in front of it.

    Args:
      direction: a transformation: `precond.scale_by_kfac`, `precond.scale_by_kronecker`, `optax.identity()`.
      damping: $\lambda$ of the model. If the loss has a weight decay in it, add its coefficient.
      learning_rate: $-\alpha$, where it is given; the model then chooses $\mu$ alone.
      momentum: $\mu$, where it is given; the model then chooses $\alpha$ alone.

    Returns:
      A transformation. Its `update` needs the extra argument `curvature`, a function from a tree v to $F v$:
      `precond.layers.ggn_product`. It is called twice. If the update is not finite, or the direction has no positive
      curvature, nothing moves.

    Raises:
      ValueError, TypeError: for a negative number, or where nothing is left to choose; in `update` without `curvature`.

    Reference:
      Martens and Grosse, Optimizing Neural Networks with Kronecker-factored Approximate Curvature, 2015, section 7.

    Examples:
      >>> tx, x = quadratic_model(optax.identity()), jnp.asarray([3.0, 1.0])
      >>> state = tx.init(x)
      >>> for _ in range(2):  # conjugate gradients: two steps in two dimensions
      ...     matrix = jnp.asarray([[2.0, 0.0], [0.0, 5.0]])
      ...     updates, state = tx.update(matrix @ x, state, curvature=lambda v: matrix @ v)
      ...     x = x + updates
      >>> bool(jnp.max(jnp.abs(x)) < 1e-6)
      True
    """
    check_number("damping", damping, 0)
    for name, value in (("learning_rate", learning_rate), ("momentum", momentum)):
        if value is not None:
            check_number(name, value, 0)
    if learning_rate is not None and momentum is not None:
        raise ValueError(
            "learning_rate= and momentum= leave the model nothing to choose: leave one out, or use Optax's."
        )
    given, direction = (learning_rate, momentum), optax.with_extra_args_support(direction)

    def init(params: optax.Params) -> QuadraticModelState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        count, rate, momentum = jnp.zeros([], jnp.int32), jnp.zeros([]), jnp.zeros([])
        return QuadraticModelState(count, direction.init(params), zeros, rate, momentum)

    def update(
        updates: optax.Updates,
        state: QuadraticModelState,
        params: optax.Params | None = None,
        *,
        curvature: Product | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, QuadraticModelState]:
        if curvature is None:
            raise MissingArgumentError(
                "quadratic_model's update needs curvature=: a function from v to F v, as precond.layers.ggn_product."
            )
        refuse_divided("quadratic_model", extra.get("blocks"))
        new, inner = direction.update(updates, state.inner, params, **extra)
        both = (new, state.previous)
        turned = [jax.tree.map(lambda f, v: f + damping * v, curvature(v), v) for v in both]
        matrix = [[tree_product(v, f) for f in turned] for v in both]
        alpha, mu = _solve(matrix, [tree_product(updates, v) for v in both], *given)
        moved = jax.tree.map(lambda a, b: (alpha * a + mu * b).astype(a.dtype), *both)
        finite = all_finite(moved)
        moved = jax.tree.map(lambda x: jnp.where(finite, x, 0), moved)
        rate, momentum = (jnp.where(finite, x, 0).astype(state.momentum.dtype) for x in (-alpha, mu))
        count = jnp.asarray(optax.safe_increment(state.count))
        return moved, QuadraticModelState(count, inner, moved, rate, momentum)

    return transformation(init, update)


def _solve(
    matrix: list[list[jax.Array]], slope: list[jax.Array], rate: ArrayLike | None, momentum: ArrayLike | None
) -> tuple[jax.Array, jax.Array]:
    """Minimise the model in two dimensions, or in one if the other is given, or if the two are parallel."""
    (a, b), (_, d) = matrix
    if rate is not None:
        alpha = -jnp.asarray(rate, a.dtype)
        return alpha, divide_or_zero(-(slope[1] + b * alpha), d)
    if momentum is not None:
        mu = jnp.asarray(momentum, a.dtype)
        return divide_or_zero(-(slope[0] + b * mu), a), mu
    determinant = a * d - b * b
    eps = float(jnp.finfo(determinant.dtype).eps)
    two, one = determinant > 8 * eps * a * d, a > 0
    safe = jnp.where(two, determinant, 1)
    alpha = jnp.where(two, (b * slope[1] - d * slope[0]) / safe, jnp.where(one, -slope[0] / jnp.where(one, a, 1), 0))
    return alpha, jnp.where(two, (b * slope[0] - a * slope[1]) / safe, 0)

"""Adapt damping by how well a quadratic model predicts the loss: the Levenberg-Marquardt rule."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import (
    MissingArgumentError,
    called,
    check_number,
    check_optimizer,
    check_transformation,
    check_whole,
    described,
)
from precond.blocks import refuse_divided, refuse_foreign
from precond.compiled_if_eager import compiled_if_eager
from precond.transformation import transformation
from precond.transforms.quadratic_model import Product
from precond.trees import Tree, tree_product

__all__ = ["LevenbergMarquardtState", "levenberg_marquardt"]


class LevenbergMarquardtState(NamedTuple):
    r"""Hold the state of `levenberg_marquardt`.

    Attributes:
      count: the number of updates so far.
      inner: the state of the inner transformation.
      damping: $\lambda$ for the next update.
      ratio: $\rho$ of the last update.
      rejected: the number of updates rejected so far.
    """

    count: jax.Array
    inner: optax.OptState
    damping: jax.Array
    ratio: jax.Array
    rejected: jax.Array


@described(explain=True)
def levenberg_marquardt(
    make: Callable[[jax.Array], optax.GradientTransformation],
    damping: float = 1.0,
    *,
    decay: float = 0.95,
    interval: int = 5,
    thresholds: tuple[float, float] = (0.25, 0.75),
    rejection: float | None = None,
    damped: bool = True,
    low: float = 1e-8,
    high: float = 1e8,
) -> optax.GradientTransformationExtraArgs:
    r"""Adapt the damping of a second-order method by the Levenberg-Marquardt rule, and reject steps that go up.

    With the loss h, the gradient g, the curvature F and the update $\delta$,

    $$\rho = \frac{h(\theta + \delta) - h(\theta)}
      {g^\top \delta + \frac12 \delta^\top (F + \lambda I) \, \delta}, \qquad
      \lambda \leftarrow \begin{cases} \omega^T \lambda & \rho > 3/4 \\ \omega^{-T} \lambda & \rho < 1/4 \end{cases}$$

    every T steps. If the loss after a step is larger, or not finite, the step is rejected: no parameter moves, the
    inner state stays as it was, and the damping is raised at once. $\lambda$ is kept in the state. The inner
    transformation gets it as an argument of the function that makes it, so that it may stand wherever a number may.

    Args:
      make: a function from $\lambda$ to a transformation whose update is the whole step:
        `lambda damping: precond.transforms.quadratic_model(precond.scale_by_kfac(layers, damping=damping), damping)`.
        It is called in every update, and must always make a transformation with the same state.
      damping: the first $\lambda$, rather too large than too small; in the paper 150.
      decay: $\omega$; in the paper 19/20.
      interval: T.
      thresholds: the thresholds of $\rho$; below the first the damping is raised, and above the second it is lowered.
      rejection: the number by which the damping is multiplied when a step is rejected; None is $\omega^{-T}$.
      damped: whether $\lambda I$ is in the model that foretells the change. Without it the curvature's own model does.
      low: the least $\lambda$.
      high: the largest $\lambda$.

    Returns:
      A transformation. Its `update` needs `params`, and the extra arguments `value`, the loss; `value_fn`, the loss of
      the same batch as a function of parameters; and `curvature`, as for `precond.transforms.quadratic_model`. All are
      passed on to the inner transformation.

    Raises:
      ValueError, TypeError: for numbers out of range; in `update` if an argument is missing.

    Reference:
      Martens and Grosse, 2015, section 6.5, and the rejections of Martens, Deep Learning via Hessian-free Optimization,
      2010.

    Examples:
      >>> tx = levenberg_marquardt(
      ...     lambda damping: optax.scale(-1 / (2 + damping)), 1.0, interval=1, decay=0.5
      ... )
      >>> x, loss = jnp.asarray(3.0), lambda x: x**2
      >>> more = {"value": loss(x), "value_fn": loss, "curvature": lambda v: 2 * v}
      >>> updates, state = tx.update(jax.grad(loss)(x), tx.init(x), x, **more)
      >>> updates.item(), state.damping.item()  # the model is exact but for the damping
      (-2.0, 0.5)
    """
    check_number("damping", damping, 0)
    check_number("decay", decay, 0, 1)
    check_whole("interval", interval, least=1)
    check_number("low", low, 0)
    check_number("high", high, low, math.inf)
    check_number("thresholds[0]", thresholds[0], 0)
    check_number("thresholds[1]", thresholds[1], thresholds[0])
    if rejection is not None:
        check_number("rejection", rejection, 1)
    less = decay**interval
    after_rejection = 1 / less if rejection is None else rejection

    def init(params: optax.Params) -> LevenbergMarquardtState:
        start = jnp.asarray(damping, jnp.result_type(float))
        count, rejected = jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32)
        made = called("make", make, start)
        check_transformation("make(damping)", made)
        inner = check_optimizer(made, **{"make(damping)": made}).init(params)
        return LevenbergMarquardtState(count, inner, start, jnp.ones_like(start), rejected)

    def update(
        updates: optax.Updates,
        state: LevenbergMarquardtState,
        params: optax.Params | None = None,
        *,
        value: ArrayLike | None = None,
        value_fn: Callable[[Tree], jax.Array] | None = None,
        curvature: Product | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, LevenbergMarquardtState]:
        more = {"value": value, "value_fn": value_fn, "curvature": curvature}
        if params is None or value is None or value_fn is None or curvature is None:
            missing = next(name for name, x in {"params": params, **more}.items() if x is None)
            raise MissingArgumentError(
                f"levenberg_marquardt's update needs {missing}=: see its docstring for all that it needs."
            )
        refuse_divided("levenberg_marquardt", extra.get("blocks"))
        inner = optax.with_extra_args_support(make(state.damping))
        moved, after = inner.update(updates, state.inner, params, **more, **extra)
        bent = jax.tree.map(lambda f, v: f + damped * state.damping * v, curvature(moved), moved)
        foretold = tree_product(updates, moved) + tree_product(moved, bent) / 2
        change = value_fn(optax.apply_updates(params, moved)) - value
        good = change <= 0  # and not NaN
        ratio = jnp.where(good & (foretold < 0), change / jnp.where(foretold < 0, foretold, -1), 0)
        count = jnp.asarray(optax.safe_increment(state.count))
        adapted = jnp.where(ratio > thresholds[1], less, jnp.where(ratio < thresholds[0], 1 / less, 1.0))
        factor = jnp.where(good, jnp.where(count % interval == 0, adapted, 1.0), after_rejection)
        known = jnp.clip(state.damping * factor, low, high).astype(state.damping.dtype)
        moved = jax.tree.map(lambda u: jnp.where(good, u, 0), moved)
        kept = optax.tree.where(good, after, state.inner)
        rejected = state.rejected + (~good).astype(jnp.int32)
        return moved, LevenbergMarquardtState(count, kept, known, ratio.astype(state.ratio.dtype), rejected)

    return refuse_foreign(compiled_if_eager(transformation(init, update)))

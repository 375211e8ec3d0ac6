"""Remove the entries of updates that disagree with the gradient."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from precond.arguments import as_direction, check_direction, check_transformation, described
from precond.blocks import info_of
from precond.transformation import transformation
from precond.widened import widened

__all__ = ["cautious"]

_LEAST = 1e-3  # the least share that the rest makes up for


@described(explain=True)
def cautious(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""Leave out the entries of an update whose sign is not that of the gradient, and enlarge the others for it.

    $$U \leftarrow \frac{U \odot M}{\max(\operatorname{mean} M, 10^{-3})}, \qquad M = [U \odot G > 0]$$

    with the mean over each parameter; inside `precond.blocked` over each block. It goes around a direction, in front of
    weight decay and learning rate. Signs alone are compared, so that no scale of the gradients matters. Two complex
    numbers agree if the real part of $\bar U G$ is positive.

    Args:
      inner: a direction, such as `precond.scale_by_soap()`, or a part of one on stacks.

    Returns:
      A transformation.

    Raises:
      TypeError: for anything but an Optax transformation.
      ValueError: in `init`, for a whole optimizer, which goes against the gradient.

    Reference:
      Liang et al., Cautious Optimizers: Improving Training with One Line of Code, 2024.

    Examples:
      >>> ahead = lambda g, params: jax.tree.map(lambda x: x - 2, g)
      >>> tx, g = cautious(optax.stateless(ahead)), jnp.asarray([3.0, 4.0, 1.0, 1.0])
      >>> [abs(x) for x in tx.update(g, tx.init(g))[0].tolist()]
      [2.0, 4.0, 0.0, 0.0]
    """
    check_transformation("inner", inner)
    inner = optax.with_extra_args_support(inner)

    def one(g: jax.Array, u: jax.Array, batch_axes: int) -> jax.Array:
        agrees = jnp.real(jnp.conj(jnp.sign(g)) * jnp.sign(u)) > 0
        axes = tuple(range(batch_axes, u.ndim))
        share = jnp.mean(agrees, axes, dtype=jnp.finfo(u.dtype).dtype, keepdims=True)
        return u * agrees / jnp.maximum(share, _LEAST)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        batch_axes = info_of(extra.get("blocks")).batch_axes
        moved, state = inner.update(updates, state, params, **extra)
        return jax.tree.map(lambda g, u: one(g, u, batch_axes), updates, moved), state

    return as_direction(check_direction(widened(transformation(inner.init, update)), inner=inner), like=inner)

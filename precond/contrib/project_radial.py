"""Remove the step along weights that a normalisation makes scale-invariant, as AdamP does."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from precond.arguments import check_direction, check_number, check_transformation, check_whole, described
from precond.blocks import refuse_stacks
from precond.transformation import transformation
from precond.trees import wide_dtype

__all__ = ["project_radial"]


@described(explain=True)
def project_radial(
    inner: optax.GradientTransformation,
    *,
    delta: ArrayLike = 0.1,
    weight_decay: ArrayLike = 0.0,
    ratio: ArrayLike = 0.1,
    channel_axis: int = -1,
) -> optax.GradientTransformationExtraArgs:
    r"""Remove the part of the inner step u along the weights, if the gradient g has no such part.

    $$u \leftarrow u - \hat w \langle \hat w, u \rangle \qquad \text{where} \qquad
      \max |\cos(w, g)| < \delta / \sqrt{\dim w}$$

    First w is each channel of a parameter, with the maximum over its channels. If the condition fails, w is the whole
    parameter. If a normalisation follows weights, their gradient is orthogonal to them. A step of momentum along them
    only makes them grow, and the effective learning rate decay. Scalars and vectors are left alone.

    Args:
      inner: a transformation (`optax.scale_by_adam`), in front of the learning rate.
      delta: δ.
      weight_decay: the coefficient of decoupled weight decay, which is added here since it is weaker for projected
        weights.
      ratio: the factor of weight decay for projected weights.
      channel_axis: the axis of the channels that are normalised, -1 for the output features of JAX's kernels (the
        official implementation has PyTorch's, 0).

    Returns:
      A transformation whose `update` needs the parameters; updates have the dtype of the gradients.

    Raises:
      ValueError, TypeError: for a negative number; in `update` without parameters, for a parameter that lacks the axis,
        and for stacks.

    Reference:
      Heo et al., AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights, 2021.

    Examples:
      >>> w, g = jnp.asarray([[1.0], [0.0]]), jnp.asarray([[0.0], [1.0]])
      >>> tx = project_radial(optax.stateless(lambda g, params: jnp.ones_like(g)))
      >>> tx.update(g, tx.init(w), w)[0].tolist()
      [[0.0], [1.0]]
    """
    check_number("delta", delta, 0)
    check_number("weight_decay", weight_decay, 0)
    check_number("ratio", ratio, 0)
    if not (isinstance(channel_axis, int) and channel_axis == -1):
        check_whole("channel_axis", channel_axis, least=0)
    check_transformation("inner", inner)
    inner = optax.with_extra_args_support(inner)

    def projected(w: jax.Array, g: jax.Array, u: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        """Return u without its radial part over these axes, and whether the gradient has no radial part."""
        length = _norm(w, axes)
        unit = w / jnp.where(length > 0, length, 1)
        size = _norm(g, axes)
        cosine = jnp.abs(_dot(unit, g / jnp.where(size > 0, size, 1), axes))
        tangential = jnp.max(cosine) < delta / np.sqrt(np.prod([w.shape[a] for a in axes]))
        return u - unit * _dot(unit, u, axes), tangential

    def one(w: ArrayLike, g: jax.Array, u: jax.Array) -> jax.Array:
        dtype, wide = g.dtype, wide_dtype(g)
        w, g, u = jnp.asarray(w, wide), jnp.asarray(g, wide), jnp.asarray(u, wide)
        decay = jnp.asarray(weight_decay, jnp.finfo(wide).dtype)
        if w.ndim > 1 and w.size:
            if channel_axis >= w.ndim:
                raise ValueError(f"channel_axis={channel_axis}: a parameter of shape {w.shape} has no such axis.")
            axes = tuple(range(w.ndim))
            by_channel, channels = projected(w, g, u, tuple(a for a in axes if a != axes[channel_axis]))
            by_layer, layer = projected(w, g, u, axes)
            u = jnp.where(channels, by_channel, jnp.where(layer, by_layer, u))
            decay = jnp.where(channels | layer, decay * ratio, decay).astype(decay.dtype)
        return (u + decay * w).astype(dtype)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        if params is None:
            raise ValueError(
                "project_radial() projects steps off the parameters: call update(gradients, state, params)."
            )
        refuse_stacks("project_radial", extra.get("blocks"))
        updates = jax.tree.map(jnp.asarray, updates)
        steps, state = inner.update(updates, state, params, **extra)
        return jax.tree.map(one, params, updates, steps), state

    tx = transformation(inner.init, update)
    return tx if isinstance(weight_decay, int | float) and weight_decay == 0 else check_direction(tx, inner=inner)


def _dot(x: jax.Array, y: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sum(jnp.real(jnp.conj(x) * y), axes, keepdims=True)


def _norm(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(jnp.abs(x)), axes, keepdims=True))

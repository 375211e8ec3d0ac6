"""AdamP's projection: no step along weights that a normalisation after them makes scale-invariant."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from precond.arguments import check_number, check_whole
from precond.transformation import transformation
from precond.trees import wide_dtype

__all__ = ["project_radial"]


def project_radial(
    inner: optax.GradientTransformation,
    *,
    delta: ArrayLike = 0.1,
    weight_decay: ArrayLike = 0.0,
    ratio: ArrayLike = 0.1,
    channel_axis: int = -1,
) -> optax.GradientTransformationExtraArgs:
    r"""The inner transformation's step u without its part along the weights, where the gradient g has none.

    $$u \leftarrow u - \hat w \langle \hat w, u \rangle \qquad \text{where} \qquad
      \max |\cos(w, g)| < \delta / \sqrt{\dim w}$$

    with w each channel of a parameter, and the maximum over its channels; where that fails, w is the whole parameter.
    The gradient of weights that are followed by a normalisation is orthogonal to them, so that a step of momentum along
    them only makes them grow and the effective learning rate decay. Scalars and vectors are left alone.

    Args:
      inner: any transformation (`optax.scale_by_adam`); what its update is in front of the learning rate.
      delta: δ.
      weight_decay: of decoupled weight decay, which is added here since it is weaker where something is projected.
      ratio: by what weight decay is multiplied there.
      channel_axis: the axis of the channels that are normalised, -1 for the output features of JAX's kernels (the
        official implementation has PyTorch's, 0).

    Returns:
      A transformation whose `update` needs the parameters; updates have the dtype of the gradients.

    Raises:
      ValueError, TypeError: for a negative number; and in `update` without parameters, or for one that lacks the axis.

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
    if channel_axis != -1:
        check_whole("channel_axis", channel_axis, least=0)
    inner = optax.with_extra_args_support(inner)

    def projected(w: jax.Array, g: jax.Array, u: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        """Without the radial part over these axes, and whether the gradient has one."""
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
        updates = jax.tree.map(jnp.asarray, updates)
        steps, state = inner.update(updates, state, params, **extra)
        return jax.tree.map(one, params, updates, steps), state

    return transformation(inner.init, update)


def _dot(x: jax.Array, y: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sum(jnp.real(jnp.conj(x) * y), axes, keepdims=True)


def _norm(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(jnp.abs(x)), axes, keepdims=True))

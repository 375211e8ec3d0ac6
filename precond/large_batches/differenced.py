"""The spread of a gradient that comes alone, from its distance to the one before it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from precond.replicas import Metric, Replicas, stacked
from precond.transformation import transformation
from precond.trees import Tree, all_finite, wide_zeros

__all__ = ["DifferencedState", "differenced"]


class DifferencedState(NamedTuple):
    """What `differenced` keeps.

    Attributes:
      count: gradients seen that were finite.
      previous: the last of them, float32 or wider.
      inner: the state of the inner transformation.
    """

    count: jax.Array
    previous: Tree
    inner: optax.OptState


def differenced(
    inner: optax.GradientTransformation, *, metric: Callable[[optax.OptState], Metric] | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Statistics from two steps in a row, for a batch that is one device's and is not split.

    $g_t$ and $g_{t-1}$ are taken for two samples of one gradient: their mean and $\frac12 \|g_t - g_{t-1}\|^2$ are what
    the inner transformation gets as `replicas` (from the second step on). Between the two the parameters have moved,
    so the variance is overestimated by half the squared change of the true gradient: small against the noise of a
    small batch, not against that of a large one. Prefer `precond.replicas.over_groups`, whose cost is some memory.

    Args:
      inner: a transformation that uses the extra argument `replicas`, as `precond.adascale`. Where `update` is given
        `replicas`, they are passed on as they are.
      metric: from the inner state to the metric of the statistics, as in `precond.accumulate`.

    Returns:
      A transformation that keeps one gradient.

    Reference:
      Qiao et al., Pollux, 2021, and its implementation, AdaptDL.

    Examples:
      >>> from precond import scale_by_adascale
      >>> tx, w = differenced(scale_by_adascale(1.0, scale=8)), jnp.zeros(1)
      >>> _, state = tx.update(jnp.asarray([1.0]), tx.init(w))
      >>> _, state = tx.update(jnp.asarray([-1.0]), state)  # nothing but noise
      >>> state.inner.gain.item()
      8.0
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> DifferencedState:
        return DifferencedState(jnp.zeros([], jnp.int32), wide_zeros(params), inner.init(params))

    def update(
        updates: optax.Updates,
        state: DifferencedState,
        params: optax.Params | None = None,
        *,
        replicas: Replicas | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, DifferencedState]:
        if replicas is None:
            both = jax.tree.map(lambda g, p: jnp.stack([jnp.asarray(g, p.dtype), p]), updates, state.previous)
            replicas = _two(both, state.count, None if metric is None else metric(state.inner))
        out, inside = inner.update(updates, state.inner, params, replicas=replicas, **extra)
        seen = DifferencedState(
            jnp.asarray(optax.safe_increment(state.count)),
            jax.tree.map(lambda g, p: jnp.asarray(g, p.dtype), updates, state.previous),
            inside,
        )
        return out, optax.tree.where(all_finite(updates), seen, state._replace(inner=inside))

    return transformation(init, update)


def _two(both: Tree, count: jax.Array, metric: Metric | None) -> Replicas:
    if not jax.tree.leaves(both):
        return Replicas(count + 1, 1, both, both)
    _, found = stacked(both, metric)
    # Before the first gradient there is none to differ from.
    return found._replace(count=jnp.minimum(count + 1, 2), parts=1)

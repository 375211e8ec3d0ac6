"""Estimate the spread of a single gradient from its distance to the gradient before it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from precond.arguments import described
from precond.large_batches.scale_by_adascale import AdascaleState
from precond.replicas import Metric, Replicas, stacked
from precond.transformation import transformation
from precond.trees import Tree, all_finite, wide_zeros_like

__all__ = ["DifferencedState", "differenced"]


class DifferencedState(NamedTuple):
    """Hold the state of `differenced`.

    Attributes:
      count: the number of finite gradients in a row that were not split.
      differenced: whether there are differences of steps in the averages of the inner state.
      previous: the last finite gradient, float32 or wider.
      inner: the state of the inner transformation.
    """

    count: jax.Array
    differenced: jax.Array
    previous: Tree
    inner: optax.OptState


@described(explain=True)
def differenced(
    inner: optax.GradientTransformation, *, metric: Callable[[optax.OptState], Metric] | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Make statistics from two steps in a row, for a batch that is on one device and is not split.

    The gradients $g_t$ and $g_{t-1}$ count as two samples of one gradient. From the second step on, the inner
    transformation gets their mean and $\frac12 \|g_t - g_{t-1}\|^2$ as `replicas`. The parameters have moved between
    the two, so the variance is overestimated by half the squared change of the true gradient. This is small against the
    noise of a small batch, but not against the noise of a large one. Prefer `precond.replicas.over_groups`, which costs
    some memory.

    Args:
      inner: a transformation that uses the extra argument `replicas`, as `precond.adascale` does. If `update` is given
        `replicas` of more than one gradient, they are passed on as they are. AdaScale's averages then begin again if
        differences are in them.
      metric: a function from the inner state to the metric of the statistics, as in `precond.accumulate`.

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
        return DifferencedState(
            jnp.zeros([], jnp.int32), jnp.zeros([], bool), wide_zeros_like(params), inner.init(params)
        )

    def update(
        updates: optax.Updates,
        state: DifferencedState,
        params: optax.Params | None = None,
        *,
        replicas: Replicas | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, DifferencedState]:
        real = jnp.asarray(1 if replicas is None else replicas.count) > 1
        inside = optax.tree.where(real & state.differenced, _begun_again(state.inner), state.inner)
        if replicas is None:
            both = jax.tree.map(lambda g, p: jnp.stack([jnp.asarray(g, p.dtype), p]), updates, state.previous)
            replicas = _two(both, state.count, None if metric is None else metric(state.inner))
        out, inside = inner.update(updates, inside, params, replicas=replicas, **extra)
        seen = DifferencedState(
            jnp.where(real, 0, optax.safe_increment(state.count)),
            ~real & (state.differenced | (state.count > 0)),
            jax.tree.map(lambda g, p: jnp.asarray(g, p.dtype), updates, state.previous),
            inside,
        )
        return out, optax.tree.where(all_finite(updates), seen, state._replace(inner=inside))

    return transformation(init, update)


def _begun_again(state: optax.OptState) -> optax.OptState:
    """Return a state whose averages are empty; counts and scale-invariant steps stay."""

    def one(x: Any) -> Any:
        if not isinstance(x, AdascaleState):
            return x
        samples, weight, variance = (jnp.zeros_like(a) for a in (x.samples, x.weight, x.variance))
        return x._replace(samples=samples, weight=weight, variance=variance, square=jnp.ones_like(x.square))

    return jax.tree.map(one, state, is_leaf=lambda x: isinstance(x, AdascaleState))


def _two(both: Tree, count: jax.Array, metric: Metric | None) -> Replicas:
    if not jax.tree.leaves(both):
        return Replicas(count + 1, 1, both, both)
    _, found = stacked(both, metric)
    # The first gradient has no gradient before it.
    return found._replace(count=jnp.minimum(count + 1, 2), parts=1)

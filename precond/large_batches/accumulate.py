"""Accumulate several micro-batches into one step, in which the inner transformation runs once."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_whole, described
from precond.blocks import Layer, LayerFactors, check_layers, refuse_foreign
from precond.compiled_if_eager import compiled_if_eager
from precond.large_batches.average_factors import average_factors, zero_factors
from precond.replicas import Metric, Replicas, Squares, merge, whole_squares
from precond.transformation import transformation
from precond.trees import Tree, common_dtype, wide_zeros_like
from precond.widened import widened

__all__ = ["AccumulateState", "accumulate"]


class AccumulateState(NamedTuple):
    """Hold the state of `accumulate`.

    Attributes:
      count: the number of steps of the inner transformation.
      micro_step: the number of micro-steps since the last step.
      seen: the number of gradients in the mean; a micro-step with `replicas` of its own has several.
      parts: the number of gradients that make up one step's gradient.
      mean: the mean of the gradients since the last step, float32 or wider.
      deviation: one array with the sum of squared distances from the mean for each leaf.
      captured: the number of micro-steps that had factors.
      factors: the mean of these factors, by layer; None without layers.
      inner: the state of the inner transformation.
    """

    count: jax.Array
    micro_step: jax.Array
    seen: jax.Array
    parts: jax.Array
    mean: Tree
    deviation: jax.Array
    captured: jax.Array
    factors: dict[str, LayerFactors] | jax.Array | None
    inner: optax.OptState


@described(explain=True)
def accumulate(
    inner: optax.GradientTransformation,
    every_k: int,
    *,
    metric: Callable[[optax.OptState], Metric] | None = None,
    layers: Mapping[str, Layer] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Average the gradients of k micro-steps, and give the inner transformation their mean with its statistics.

    $$\bar g = \frac{1}{k} \sum_i g_i, \quad D = \sum_i \|g_i - \bar g\|^2$$

    The inner transformation runs in the last of the k micro-steps. In the others updates are zero and it does not run,
    so that its roots are refreshed and its moments move once a step. (`optax.MultiSteps` runs it each time and throws
    the result away.) It gets the statistics as the extra argument `replicas`, for `precond.adascale`. Micro-steps may
    have `replicas` of their own, each with the same number of gradients. These are merged: devices times micro-batches.

    With `layers`, K-FAC's `factors` are averaged, too, over the micro-steps that have any. Micro-steps with
    `factors=None` are left out. If no micro-step has factors, nothing counts as captured in the step. Other extra
    arguments are those of the last micro-step.

    If all micro-batches are there at once, `precond.replicas.over_micro_batches` does the same without a state.

    Args:
      inner: a transformation.
      every_k: k, the number of micro-steps in a step; with 1 every update is passed through.
      metric: a function from the inner state to the metric of the statistics (`precond.replicas.adam_metric`); None is
        the identity. The micro-steps' own `replicas` must have the same metric.
      layers: the layers whose factors are passed as the extra argument `factors`: `capture.layers`, as for
        `precond.kfac`.

    Returns:
      A transformation; updates have the dtype of the gradients.

    Raises:
      ValueError, TypeError: for an `every_k` below 1; in `update`, for replicas that are not by leaf, for factors of
        other layers, or for any factors without `layers`.

    Examples:
      >>> tx, params = accumulate(optax.sgd(1.0), 2), jnp.zeros(())
      >>> first, state = tx.update(jnp.asarray(1.0), tx.init(params), params)
      >>> second, state = tx.update(jnp.asarray(3.0), state, params)
      >>> first.item(), second.item(), state.count.item()
      (0.0, -2.0, 1)
    """
    check_whole("every_k", every_k, least=1)
    if layers is not None:
        check_layers(layers)
    inner = widened(inner)

    def init(params: optax.Params) -> AccumulateState:
        mean = wide_zeros_like(params)
        deviation = jnp.zeros([len(jax.tree.leaves(mean))], common_dtype(mean))
        count, micro_step, seen, parts, captured = (jnp.zeros([], jnp.int32) for _ in range(5))
        factors = None if layers is None else zero_factors(layers, params)
        return AccumulateState(count, micro_step, seen, parts, mean, deviation, captured, factors, inner.init(params))

    def step(
        updates: Tree, params: Tree | None, squares: Squares, extra: dict[str, Any], state: AccumulateState
    ) -> tuple[Tree, AccumulateState]:
        """Take a step of the inner transformation with all that was accumulated."""
        deviation = jax.tree.unflatten(jax.tree.structure(updates), list(state.deviation))
        every = Replicas(state.seen, state.parts, deviation, squares(state.mean))
        out, inside = inner.update(state.mean, state.inner, params, **_given(extra, every))
        none = jnp.zeros([], jnp.int32)
        fresh = state._replace(
            count=jnp.asarray(optax.safe_increment(state.count)),
            micro_step=none,
            seen=none,
            parts=none,
            mean=wide_zeros_like(state.mean),
            deviation=wide_zeros_like(state.deviation),
            captured=none,
            factors=wide_zeros_like(state.factors),
            inner=inside,
        )
        return optax.tree.cast_like(out, updates), fresh

    def update(
        updates: optax.Updates,
        state: AccumulateState,
        params: optax.Params | None = None,
        *,
        replicas: Replicas | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, AccumulateState]:
        if every_k == 1:
            out, inside = inner.update(updates, state.inner, params, **_given(extra, replicas))
            return out, state._replace(count=jnp.asarray(optax.safe_increment(state.count)), inner=inside)

        def squares(tree: Tree) -> Tree:
            return whole_squares(tree, None if metric is None else metric(state.inner))

        state = _merge(state, updates, replicas, squares)
        state, sources = _capture(state, extra)

        def hold(state: AccumulateState) -> tuple[Tree, AccumulateState]:
            return jax.tree.map(jnp.zeros_like, updates), state._replace(micro_step=state.micro_step + 1)

        steps = [functools.partial(step, updates, params, squares, source) for source in sources]
        last = (state.micro_step == every_k - 1).astype(jnp.int32)
        # If only some micro-steps have factors, only the last one knows whether the step has any.
        turn = last * (1 + (state.captured > 0)) if len(steps) > 1 else last
        return jax.lax.switch(turn, [hold, *steps], state)

    return refuse_foreign(compiled_if_eager(transformation(init, update)))


def _given(extra: dict[str, Any], replicas: Replicas | None) -> dict[str, Any]:
    return extra if replicas is None else extra | {"replicas": replicas}


def _merge(state: AccumulateState, updates: Tree, replicas: Replicas | None, squares: Squares) -> AccumulateState:
    """Merge the gradients of one more micro-step into the mean."""
    treedef = jax.tree.structure(updates)
    more, count, parts = _of_micro_step(replicas, state.deviation, treedef)
    old = treedef.unflatten(list(state.deviation))
    mean, deviation = merge(state.mean, old, state.seen, updates, treedef.unflatten(more), count, squares)
    flat = jnp.stack(jax.tree.leaves(deviation)) if treedef.num_leaves else state.deviation
    return state._replace(mean=mean, deviation=flat, seen=state.seen + count, parts=state.parts + parts)


def _capture(state: AccumulateState, extra: dict[str, Any]) -> tuple[AccumulateState, list[dict[str, Any]]]:
    """Merge the factors of one more micro-step.

    Returns:
      The state, and the extra arguments that a step may have: without factors, and with some.
    """
    new = extra.get("factors")
    if state.factors is None and new is not None:
        raise ValueError(
            "accumulate() got factors=, but keeps none without layers=: pass accumulate(.., layers=capture.layers)."
        )
    if not isinstance(state.factors, dict):  # it is an array if no layer has parameters here
        return state, [extra]
    if new is None:
        return state, [extra, extra | {"factors": state.factors}]
    mean = average_factors(state.factors, state.captured, new)
    return state._replace(factors=mean, captured=state.captured + 1), [extra | {"factors": mean}]


def _of_micro_step(
    replicas: Replicas | None, like: jax.Array, treedef: Any
) -> tuple[list[jax.Array], ArrayLike, ArrayLike]:
    """Return the deviation of each leaf, the number of gradients, and the number of parts of a step's gradient."""
    if replicas is None:
        return [jnp.zeros([], like.dtype)] * treedef.num_leaves, 1, 1
    if jax.tree.structure(replicas.deviation) != treedef:
        raise ValueError(
            "accumulate() needs replicas with one number for each leaf of the gradient: take them from a function in "
            "precond.replicas, or give replicas.summed() a tree of squares. If they are those of all parameters, put "
            "accumulate() around optax.partition() or optax.masked(), not inside."
        )
    deviation = [jnp.asarray(x, like.dtype) for x in jax.tree.leaves(replicas.deviation)]
    return deviation, jnp.asarray(replicas.count, jnp.int32), jnp.asarray(replicas.parts, jnp.int32)

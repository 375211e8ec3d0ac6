"""One step for several micro-batches: the inner transformation runs on the last of them alone."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_whole
from precond.blocks import Factors, Layer
from precond.eager import compiled_if_eager
from precond.large_batches.average_factors import average_factors, zero_factors
from precond.replicas import Metric, Replicas, Squares, merge, whole_squares
from precond.transformation import transformation
from precond.trees import Tree, common_dtype, wide_zeros

__all__ = ["AccumulateState", "accumulate"]


class AccumulateState(NamedTuple):
    """What `accumulate` keeps.

    Attributes:
      count: steps of the inner transformation.
      micro_step: micro-steps since the last of them.
      seen: gradients in the mean; several a micro-step where it came with `replicas` of its own.
      parts: how many of them make up the gradient of one step.
      mean: of the gradients since the last step, float32 or wider.
      deviation: of each leaf, in one array, the sum of squared distances from the mean.
      captured: how many of the micro-steps came with factors.
      factors: the mean of those, by layer; None without layers.
      inner: the state of the inner transformation.
    """

    count: jax.Array
    micro_step: jax.Array
    seen: jax.Array
    parts: jax.Array
    mean: Tree
    deviation: jax.Array
    captured: jax.Array
    factors: dict[str, Factors] | jax.Array | None
    inner: optax.OptState


def accumulate(
    inner: optax.GradientTransformation,
    every_k: int,
    *,
    metric: Callable[[optax.OptState], Metric] | None = None,
    layers: Mapping[str, Layer] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Average the gradients of k micro-steps, and give the inner transformation their mean with its statistics.

    $$\bar g = \frac{1}{k} \sum_i g_i, \quad D = \sum_i \|g_i - \bar g\|^2$$

    In the other micro-steps updates are zero and the inner transformation does not run: its roots are refreshed and its
    moments move once a step (`optax.MultiSteps` runs it each time and throws the result away). The statistics go to it
    as the extra argument `replicas`, for `precond.adascale`. Micro-steps may come with `replicas` of their own, each
    with the same number of gradients, and are then merged: devices times micro-batches.

    With `layers`, K-FAC's `factors` are averaged too, over the micro-steps that have any: those with `factors=None`
    are left out, and where none has, the step is one in which nothing was captured. Other extra arguments are those of
    the last micro-step.

    Where the micro-batches are at hand at once, `precond.replicas.over_micro_batches` needs no state for the same.

    Args:
      inner: any transformation.
      every_k: k, the micro-steps in a step; with 1 every update goes through as it came.
      metric: from the inner state to the metric of the statistics (`precond.replicas.adam_metric`), if they are to be
        in one; that of the micro-steps' own `replicas` must be the same.
      layers: those whose factors come as the extra argument `factors`: `capture.layers`, as `precond.kfac` takes it.

    Returns:
      A transformation; updates have the dtype of the gradients.

    Raises:
      ValueError, TypeError: for an `every_k` below 1; in `update`, for replicas that are not by leaf, for factors of
        other layers, or for any where there are no `layers`.

    Examples:
      >>> tx, params = accumulate(optax.sgd(1.0), 2), jnp.zeros(())
      >>> first, state = tx.update(jnp.asarray(1.0), tx.init(params), params)
      >>> second, state = tx.update(jnp.asarray(3.0), state, params)
      >>> first.item(), second.item(), state.count.item()
      (0.0, -2.0, 1)
    """
    check_whole("every_k", every_k, least=1)
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> AccumulateState:
        mean = wide_zeros(params)
        deviation = jnp.zeros([len(jax.tree.leaves(mean))], common_dtype(mean))
        count, micro_step, seen, parts, captured = (jnp.zeros([], jnp.int32) for _ in range(5))
        factors = None if layers is None else zero_factors(layers, params)
        return AccumulateState(count, micro_step, seen, parts, mean, deviation, captured, factors, inner.init(params))

    def step(
        updates: Tree, params: Tree | None, squares: Squares, extra: dict[str, Any], state: AccumulateState
    ) -> tuple[Tree, AccumulateState]:
        """The inner transformation's, with what was accumulated."""
        deviation = jax.tree.unflatten(jax.tree.structure(updates), list(state.deviation))
        every = Replicas(state.seen, state.parts, deviation, squares(state.mean))
        mean = optax.tree.cast_like(state.mean, updates)
        out, inside = inner.update(mean, state.inner, params, **_given(extra, every))
        none = jnp.zeros([], jnp.int32)
        fresh = state._replace(
            count=jnp.asarray(optax.safe_increment(state.count)),
            micro_step=none,
            seen=none,
            parts=none,
            mean=wide_zeros(state.mean),
            deviation=wide_zeros(state.deviation),
            captured=none,
            factors=wide_zeros(state.factors),
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
        # Where only some micro-steps have factors, whether the step has any is known when it is done.
        turn = last * (1 + (state.captured > 0)) if len(steps) > 1 else last
        return jax.lax.switch(turn, [hold, *steps], state)

    return compiled_if_eager(transformation(init, update))


def _given(extra: dict[str, Any], replicas: Replicas | None) -> dict[str, Any]:
    return extra if replicas is None else extra | {"replicas": replicas}


def _merge(state: AccumulateState, updates: Tree, replicas: Replicas | None, squares: Squares) -> AccumulateState:
    """With the gradients of one more micro-step in the mean."""
    treedef = jax.tree.structure(updates)
    more, count, parts = _of_micro_step(replicas, state.deviation, treedef)
    old = treedef.unflatten(list(state.deviation))
    mean, deviation = merge(state.mean, old, state.seen, updates, treedef.unflatten(more), count, squares)
    flat = jnp.stack(jax.tree.leaves(deviation)) if treedef.num_leaves else state.deviation
    return state._replace(mean=mean, deviation=flat, seen=state.seen + count, parts=state.parts + parts)


def _capture(state: AccumulateState, extra: dict[str, Any]) -> tuple[AccumulateState, list[dict[str, Any]]]:
    """With the factors of one more micro-step, and the extra arguments of a step: with no factors, and with some."""
    new = extra.get("factors")
    if state.factors is None and new is not None:
        raise ValueError(
            "accumulate() got factors=, but keeps none without layers=: pass accumulate(.., layers=capture.layers)."
        )
    if not isinstance(state.factors, dict):  # nor are there any where no layer has parameters here
        return state, [extra]
    if new is None:
        return state, [extra, extra | {"factors": state.factors}]
    mean = average_factors(state.factors, state.captured, new)
    return state._replace(factors=mean, captured=state.captured + 1), [extra | {"factors": mean}]


def _of_micro_step(
    replicas: Replicas | None, like: jax.Array, treedef: Any
) -> tuple[list[jax.Array], ArrayLike, ArrayLike]:
    """Deviation of each leaf, number of gradients and of parts of a step's gradient."""
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

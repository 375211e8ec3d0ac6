"""Accumulate a Gram matrix for each stack and axis, which is the part that statistics share."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import KeyPath
from jax.typing import ArrayLike

from precond.arguments import check_number, check_whole
from precond.blocks import BlockInfo, active_axes, finite_blocks, info_of, keep_finite, path_name, report_average
from precond.control_flow import run_if
from precond.linalg import Packed, average, eye_like, packed_gram
from precond.linalg.align import per_row
from precond.statistics.statistic import TermOf, Whiten
from precond.transformation import Init, Update
from precond.trees import Factors, Leaf, Stacks, wide_dtype

__all__ = ["Axes", "StatisticsState", "accumulate_grams"]

Axes = Sequence[int] | Callable[[int], Sequence[int]] | None
"""The axes of a block that get a factor: positions, or a function from the number of axes to positions; None: all."""


class StatisticsState(NamedTuple):
    """Hold the state of `accumulate_grams`.

    Attributes:
      count: the number of updates.
      terms: the number of terms that each block has accumulated, `[N]` by stack.
      factors: the tree of stacks with a tuple in place of each stack, with an entry for each axis: its packed factor,
        or None.
    """

    count: jax.Array
    terms: Stacks
    factors: Factors


def _axes_of(name: str, order: int, axes: Axes) -> tuple[int, ...]:
    if axes is None:
        return active_axes(name, order)
    picked = [i + order if i < 0 else i for i in (axes(order) if callable(axes) else axes)]
    return tuple(i for i in active_axes(name, order) if i in picked)


class _Rule(NamedTuple):
    """Say how a term is added to a factor; the fields are arguments of `accumulate_grams`."""

    decay: ArrayLike
    weight: ArrayLike | None
    debiased: bool
    mean: bool

    def add(
        self, views: Mapping[int, jax.Array], good: jax.Array, terms: jax.Array, factors: tuple[Packed | None, ...]
    ) -> tuple[jax.Array, tuple[Packed | None, ...]]:
        """Add each axis's Gram matrix to the factors of the good blocks."""
        terms = terms + good

        def averaged(old: jax.Array, new: jax.Array) -> jax.Array:
            count = per_row(jnp.maximum(terms, 1), old.ndim) if self.debiased else None
            return average(old, new, self.decay, self.weight, count=count)

        def one(axis: int, factor: Packed) -> Packed:
            new, (_, *sides) = packed_gram(views[axis], axis), views[axis].shape
            if self.mean:
                new = jax.tree.map(lambda x: x / (math.prod(sides) / sides[axis]), new)
            return keep_finite(good, jax.tree.map(averaged, factor, new), factor)

        return terms, tuple(None if f is None else one(i, f) for i, f in enumerate(factors))


def accumulate_grams(
    term_of: TermOf,
    *,
    decay: ArrayLike,
    weight: ArrayLike | None,
    bias_correction: bool,
    initial: float,
    axes: Axes,
    every: int,
    mean: bool = False,
) -> tuple[Init[StatisticsState], Update[StatisticsState]]:
    """Sum or average a Gram matrix for each block and axis; see `precond.outer_products` for the other arguments.

    If the array of one axis has an entry that is not finite, the block is skipped on all axes. A finite gradient can
    become infinite by whitening.

    Args:
      term_of: a function that turns gradients into the array of one axis.
      mean: whether to divide each Gram matrix by the size of the other axes.

    Returns:
      The two functions of a transformation, for `precond.transformation.transformation`.
    """
    check_number("decay", decay, 0, 1, advice="1 sums, less than 1 averages.")
    check_number("initial", initial, 0)
    check_whole("every", every, least=1)
    if weight is not None:
        check_number("weight", weight, 0)
    debiased = bias_correction and weight is None and initial == 0
    rule = _Rule(decay, weight, debiased, mean)

    def init(params: optax.Params) -> StatisticsState:
        report_average("factors", decay, debiased=debiased)

        def start(path: KeyPath, stack: Leaf) -> tuple[Packed | None, ...]:
            n, *shape = stack.shape
            dtype = wide_dtype(stack)
            used = _axes_of(path_name(path), len(shape), axes)
            stacks = [jax.ShapeDtypeStruct((n, d, d), dtype) for d in shape]
            return tuple(eye_like(x, initial) if axis in used else None for axis, x in enumerate(stacks))

        factors = jax.tree_util.tree_map_with_path(start, params)
        terms = jax.tree.map(lambda stack: jnp.zeros(stack.shape[:1], jnp.int32), params)
        return StatisticsState(jnp.zeros([], jnp.int32), terms, factors)

    def update(
        updates: optax.Updates,
        state: StatisticsState,
        params: optax.Params | None = None,
        *,
        blocks: BlockInfo | None = None,
        whiten: Whiten | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, StatisticsState]:
        del params, extra
        info = info_of(blocks)
        finite = info.finite
        if finite is None:
            finite = jax.tree.map(lambda stack: jnp.ones(stack.shape[:1], bool), updates)

        def add(
            path: KeyPath,
            stack: jax.Array,
            good: jax.Array,
            terms: jax.Array,
            factors: tuple[Packed | None, ...],
        ) -> tuple[jax.Array, tuple[Packed | None, ...]]:
            name, there = path_name(path), [axis for axis, f in enumerate(factors) if f is not None]
            views = {axis: term_of(name, stack, axis, factors, whiten) for axis in there}
            for view in views.values():
                good = good if view is stack else good & finite_blocks(view)  # the stack itself has been checked
            return rule.add(views, good, terms, factors)

        def accumulate(terms: Stacks, factors: Factors) -> tuple[Stacks, Factors]:
            stacks, treedef = jax.tree_util.tree_flatten_with_path(updates)
            rest = [treedef.flatten_up_to(x) for x in (finite, terms, factors)]
            out = [add(*stack, *row) for stack, *row in zip(stacks, *rest, strict=True)]
            return treedef.unflatten([t for t, _ in out]), treedef.unflatten([f for _, f in out])

        if every == 1:
            terms, factors = accumulate(state.terms, state.factors)
        else:
            due = state.count % every == 0
            terms, factors = run_if(due, accumulate, lambda *old: old, state.terms, state.factors)
        return factors, StatisticsState(info.advance(state.count), terms, factors)

    return init, update

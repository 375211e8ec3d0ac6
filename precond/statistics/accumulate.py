"""What the statistics share: Gram matrices accumulated per stack and axis, as an Optax transformation."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_number, check_whole
from precond.blocks import active_axes, path_name
from precond.linalg import average, debias

__all__ = ["Axes", "Factors", "Gram", "StatisticsState", "accumulate_grams"]

Axes = Sequence[int] | Callable[[int], Sequence[int]] | None
"""Which axes of a block get a factor: positions, or a function from the number of axes to positions; None: all."""

Factors = tuple[jax.Array | None, ...]
"""One an axis of a stack `[N, d1, .., dk]`: `[N, d, d]`, or None for an axis without a factor."""

Gram = Callable[..., jax.Array]
"""From the name of a stack, its gradients, an axis, the stack's factors so far (and the extra arguments of `update` by
name) to the term to accumulate."""


class StatisticsState(NamedTuple):
    """What `accumulate_grams` keeps.

    Attributes:
      count: updates seen.
      factors: the tree of stacks with a tuple of factors in place of each stack, before bias correction.
    """

    count: jax.Array
    factors: Any


def _axes_of(name: str, order: int, axes: Axes) -> tuple[int, ...]:
    if axes is None:
        return active_axes(name, order)
    picked = [i % order for i in (axes(order) if callable(axes) else axes)]
    return tuple(i for i in active_axes(name, order) if i in picked)


def accumulate_grams(
    gram: Gram,
    *,
    decay: ArrayLike,
    weight: ArrayLike | None,
    bias_correction: bool,
    initial: float,
    axes: Axes,
    every: int,
) -> optax.GradientTransformationExtraArgs:
    """Sum or average a Gram matrix per block and axis; see `precond.outer_products` for the arguments."""
    check_number("decay", decay, 0, 1, advice="1 sums, less than 1 averages.")
    check_number("initial", initial, 0)
    check_whole("every", every, least=1)

    def init(params: Any) -> StatisticsState:
        def zeros(path: Any, stack: Any) -> Factors:
            n, *shape = stack.shape
            dtype = jnp.result_type(jnp.float32, stack.dtype)
            used = _axes_of(path_name(path), len(shape), axes)
            return tuple(
                jnp.zeros((n, d, d), dtype) + initial * jnp.eye(d, dtype=dtype) if i in used else None
                for i, d in enumerate(shape)
            )

        factors = jax.tree_util.tree_map_with_path(zeros, params)
        return StatisticsState(jnp.zeros([], jnp.int32), factors)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        del params

        def add(path: Any, stack: jax.Array, factors: Factors) -> Factors:
            name = path_name(path)
            return tuple(
                None if f is None else average(f, gram(name, stack, i, factors, **extra), decay, weight)
                for i, f in enumerate(factors)
            )

        def accumulate(factors: Any) -> Any:
            return jax.tree_util.tree_map_with_path(add, updates, factors)

        if every == 1:
            factors = accumulate(state.factors)
        else:
            due = state.count % every == 0
            factors = jax.lax.cond(due, accumulate, lambda old: old, state.factors)
        count = jnp.asarray(optax.safe_increment(state.count))
        out = factors
        if bias_correction and weight is None:
            terms = (count + every - 1) // every
            out = jax.tree.map(lambda f: debias(f, decay, terms), factors)
        return out, StatisticsState(count, factors)

    return optax.GradientTransformationExtraArgs(init, update)

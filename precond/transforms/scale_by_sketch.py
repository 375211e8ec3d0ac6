"""Run Shampoo with factors of low rank, for sides that are too long for a square factor."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_decay, check_number, check_whole, described
from precond.blocks import BlockInfo, info_of, keep_finite, refuse_single_blocks
from precond.control_flow import run_if
from precond.linalg import Sketch, empty_sketch, sketch_power, sketched
from precond.transformation import transformation
from precond.trees import wide_dtype

__all__ = ["SketchState", "scale_by_sketch"]


class SketchState(NamedTuple):
    """Hold the state of `scale_by_sketch`.

    Attributes:
      count: the number of updates seen.
      sketches: the sketches of each stack, one for each axis.
    """

    count: jax.Array
    sketches: Any


@described(sign=1, explain=True)
def scale_by_sketch(
    rank: int = 128,
    b2: ArrayLike = 0.99,
    *,
    power: float | None = None,
    damping: ArrayLike = 1e-6,
    period: int = 10,
) -> optax.GradientTransformationExtraArgs:
    r"""Multiply each block by inverse roots of factors of low rank, as Sketchy does.

    $$L = U \mathrm{diag}(s) U^\top + \rho I, \qquad P = L^{-1/4} G R^{-1/4}$$

    U and s are the largest r eigenpairs of the moving average of $G G^\top$, found by frequent directions. All that
    they lack is at most $\rho$ in any direction. A side d takes r (d + 1) numbers, in place of d². So a side may be as
    long as a vocabulary: with `precond.blocked(scale_by_sketch(), block_size=None)` it is not cut. A side of r or less
    has all its eigenpairs. Every `period` steps the gradient of that step enters the average, by one
    eigendecomposition for each side. Its size is d, or the sum of r and the product of the other sides if that is
    smaller. With `axis=`, a block that is not cut is on one device.

    The length of P does not suit AdamW's learning rate. Graft it (`precond.graft`).

    Args:
      rank: r, at least 1.
      b2: decay of the averages, for each gradient that enters.
      power: the power of each factor; None is 1 / (2 k) for blocks of k axes.
      damping: what is added to each factor, relative to its largest eigenvalue.
      period: the number of steps from one gradient that enters to the next.

    Returns:
      A transformation of stacks `[N, d1, .., dk]`, for `precond.blocked`. If a momentum is chained before
      (`precond.with_momentum`), the averages are those of the raw gradients.

    Raises:
      ValueError, TypeError: for numbers out of range or of a wrong type; in `init`, for blocks that are not of real
        numbers; in `update`, for anything but stacks.

    Reference:
      Feinberg, Chen, Sun, Anil and Hazan, Sketchy: Memory-efficient Adaptive Regularization with Frequent Directions,
      2023, algorithm 3, with averages in place of sums.

    Examples:
      >>> import precond
      >>> direction = precond.graft(
      ...     scale_by_sketch(rank=2, period=1), precond.per_block(optax.scale_by_sign())
      ... )
      >>> tx = precond.blocked(
      ...     direction, block_size=None, views=lambda path, leaf: precond.View((0, 1))
      ... )
      >>> params = {"embedding": jnp.ones((1000, 4))}
      >>> updates, state = tx.update(params, tx.init(params))
      >>> [x.shape for x in jax.tree.leaves(state.stacks.stacks.direction.sketches)]
      [(1, 1000, 2), (1, 2), (1,), (1, 4, 2), (1, 2), (1,)]
    """
    check_whole("rank", rank, least=1)
    check_decay("b2", b2)
    check_number("damping", damping, 0)
    check_whole("period", period, least=1)
    if power is not None:
        check_number("power", power, 0, 1)

    def init(params: optax.Params) -> SketchState:
        return SketchState(jnp.zeros([], jnp.int32), jax.tree.map(lambda x: _empty(x, rank), params))

    def moved(x: jax.Array, sketches: tuple[Sketch, ...], entries: jax.Array) -> jax.Array:
        out = x.astype(wide_dtype(x))
        correction = 1 - jnp.asarray(b2, out.dtype) ** entries
        exponent = 1 / (2 * len(sketches)) if power is None else power
        for axis, sketch in enumerate(sketches):
            rows = _rows(out, axis)
            found = sketch_power(sketch, rows, exponent, damping, correction)
            out = jnp.moveaxis(found.reshape(jnp.moveaxis(out, axis + 1, 1).shape), 1, axis + 1)
        return out.astype(x.dtype)

    def update(
        updates: optax.Updates,
        state: SketchState,
        params: optax.Params | None = None,
        *,
        blocks: BlockInfo | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, SketchState]:
        del params, extra
        info = info_of(blocks)
        refuse_single_blocks("scale_by_sketch", blocks)
        if any(x.ndim < (3 if blocks is None else 2) for x in jax.tree.leaves(updates)):
            raise ValueError("scale_by_sketch() takes stacks of blocks with axes: put it into precond.blocked.")
        leaves, treedef = jax.tree.flatten(updates)
        raw, before = (treedef.flatten_up_to(tree) for tree in (info.raw(updates), state.sketches))
        finite = [None] * len(leaves) if info.finite is None else treedef.flatten_up_to(info.finite)

        def entered(old: list[Any]) -> list[Any]:
            out = []
            for g, sketches, ok in zip(raw, old, finite, strict=True):
                wide = g.astype(wide_dtype(g))
                out.append(tuple(_entered(sketch, _rows(wide, axis), ok) for axis, sketch in enumerate(sketches)))
            return out

        def _entered(old: Sketch, rows: jax.Array, ok: jax.Array | None) -> Sketch:
            if not len(rows):
                return old
            new = sketched(old, rows, b2)
            good = jnp.isfinite(jnp.sum(new.values, axis=1) + new.tail)  # a decomposition may fail
            return keep_finite(good if ok is None else good & ok, new, old)

        after = run_if(state.count % period == 0, entered, lambda old: old, before)
        entries = state.count // period + 1
        out = [moved(x, sketches, entries) for x, sketches in zip(leaves, after, strict=True)]
        new = SketchState(info.advance(state.count), treedef.unflatten(after))
        return treedef.unflatten(out), new

    return transformation(init, update)


def _empty(x: Any, rank: int) -> tuple[Sketch, ...]:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"scale_by_sketch() takes real blocks, not {x.dtype}. Give such parameters None as their view.")
    return tuple(empty_sketch(x.shape[0], d, min(rank, d), wide_dtype(x)) for d in x.shape[1:])


def _rows(x: jax.Array, axis: int) -> jax.Array:
    """Return the rows of a stack along an axis of its blocks, `[N, d, n]`."""
    size = x.shape[axis + 1]
    return jnp.moveaxis(x, axis + 1, 1).reshape(x.shape[0], size, math.prod(x.shape[1:]) // size)

"""Average over steps the factors that layers captured: K-FAC's statistics."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import KeyPath
from jax.typing import ArrayLike

from precond.arguments import check_number, described
from precond.blocks import BlockInfo, active_axes, info_of, path_name
from precond.linalg import Factor, Packed, average, packed
from precond.linalg.align import per_row
from precond.transformation import transformation
from precond.trees import Factors, Leaf, Stacks, wide_dtype

__all__ = ["ActivationsState", "activations"]


class ActivationsState(NamedTuple):
    """Hold the state of `activations`.

    Attributes:
      count: the number of updates that had factors.
      terms: the number of terms in the factors of each block, `[N]` by stack.
      factors: a tuple with an entry for each axis, by stack.
      unseen: the number of updates since all factors of each block had numbers other than zero, `[N]` by stack.
    """

    count: jax.Array
    terms: Stacks
    factors: Factors
    unseen: Stacks


@described()
def activations(decay: ArrayLike = 0.95) -> optax.GradientTransformationExtraArgs:
    r"""Average the factors that layers captured, without the bias of their start.

    $$A \leftarrow \beta A + (1 - \beta) E[a a^\top], \qquad G \leftarrow \beta G + (1 - \beta) E[g g^\top]$$

    Each is divided by $1 - \beta^t$, with t the number of terms. If an axis is in brackets in the name of a stack
    (`"(500)x16"`), its factor is diagonal, `[N, 500]`; an axis of length 1 has none.

    Args:
      decay: $\beta$; 1 sums. The default is that of the authors' code, and remembers about 20 updates.

    Returns:
      A transformation from stacks `[N, d1, .., dk]` to a tuple of factors in place of each; full factors are packed
      (`precond.linalg.Packed`). It averages `precond.BlockInfo.factors`, which are dense and have the form of its
      result. If they are None, because nothing was captured in a step, everything stays as it is. A block keeps its
      factors if its gradient is not finite, or the sum of the sizes of all entries of its new factors. It also keeps
      them if all new factors are zero, because the layer received no rows.

    Raises:
      ValueError, TypeError: for a decay out of range.

    Reference:
      Martens and Grosse, 2015, section 5; Ba, Grosse and Martens, 2017.

    Examples:
      >>> from precond import BlockInfo
      >>> from precond.linalg import dense
      >>> statistics, stacks = activations(0.5), {"1x1": jnp.ones((1, 1, 1))}
      >>> state = statistics.init(stacks)
      >>> for value in (1.0, 4.0):
      ...     seen = {"1x1": (jnp.full((1, 1, 1), value), jnp.ones((1, 1, 1)))}
      ...     factors, state = statistics.update(
      ...         stacks, state, blocks=BlockInfo(factors=seen)
      ...     )
      >>> dense(factors["1x1"][0]).item()  # (1 + 2 * 4) / 3
      3.0
    """
    check_number("decay", decay, 0, 1, advice="1 sums, less than 1 averages.")

    def init(params: optax.Params) -> ActivationsState:
        def start(path: KeyPath, stack: Leaf) -> tuple[Factor | None, ...]:
            n, *shape = stack.shape
            dtype = wide_dtype(stack)
            full = active_axes(path_name(path), len(shape))
            out: list[Factor | None] = []
            for i, d in enumerate(shape):
                if i in full:
                    out.append(packed(jnp.zeros((n, d, d), dtype)))
                else:
                    out.append(jnp.zeros((n, d), dtype) if d > 1 else None)
            return tuple(out)

        factors = jax.tree_util.tree_map_with_path(start, params)
        terms = jax.tree.map(lambda stack: jnp.zeros(stack.shape[:1], jnp.int32), params)
        return ActivationsState(jnp.zeros([], jnp.int32), terms, factors, jax.tree.map(jnp.zeros_like, terms))

    def add(
        old: tuple[Factor | None, ...], new: tuple[jax.Array, ...], terms: jax.Array, good: jax.Array
    ) -> tuple[jax.Array, tuple[Factor | None, ...], jax.Array]:
        pairs = [(f, packed(n) if isinstance(f, Packed) else n) for f, n in zip(old, new, strict=True) if f is not None]
        # One reading tells whether a factor is finite, and whether it is zero.
        sizes = jnp.stack([_size(n) for _, n in pairs])
        good &= jnp.all(jnp.isfinite(sizes), axis=0) & jnp.any(sizes != 0, axis=0)
        seen = jnp.all(sizes != 0, axis=0)
        terms = terms + good

        def one(f: jax.Array, n: jax.Array) -> jax.Array:
            mean = average(f, n, decay, count=per_row(jnp.maximum(terms, 1), f.ndim))
            return jnp.where(per_row(good, f.ndim), mean, f)

        moved = iter([jax.tree.map(one, f, n) for f, n in pairs])
        return terms, tuple(None if f is None else next(moved) for f in old), seen

    def update(
        updates: optax.Updates,
        state: ActivationsState,
        params: optax.Params | None = None,
        *,
        blocks: BlockInfo | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, ActivationsState]:
        del params
        info = info_of(blocks)
        if info.factors is None and extra.get("factors") is not None:
            raise ValueError(
                "factors= came by layer, and nothing placed them by block: put precond.by_layer(.., layers) around the "
                "transformation inside precond.blocked, or use precond.scale_by_kfac."
            )
        finite, factors = info.finite, info.factors
        if finite is None:
            finite = jax.tree.map(lambda stack: jnp.ones(stack.shape[:1], bool), updates)
        count, terms, kept, unseen = state
        seen = jax.tree.map(lambda old: jnp.zeros(old.shape, bool), unseen)
        if factors is not None:
            treedef = jax.tree.structure(updates)
            columns = [treedef.flatten_up_to(x) for x in (kept, factors, terms, finite)]
            out = [add(*row) for row in zip(*columns, strict=True)]
            terms, kept, seen = (treedef.unflatten([x[i] for x in out]) for i in range(3))
            count = info.advance(count)
        return kept, ActivationsState(count, terms, kept, _count_unseen(unseen, seen, info))

    return transformation(init, update)


def _size(factor: Factor) -> jax.Array:
    """Return the sum of the sizes of all entries of each matrix, `[N]`."""
    parts = [jnp.sum(jnp.abs(x), axis=tuple(range(1, x.ndim))) for x in jax.tree.leaves(factor)]
    return functools.reduce(jnp.add, parts)


def _count_unseen(unseen: Stacks, seen: Stacks, info: BlockInfo) -> Stacks:
    """Count one more update for the blocks without factors, or with a factor that is zero."""

    def one(path: KeyPath, old: jax.Array, seen: jax.Array) -> jax.Array:
        name = path_name(path)
        if info.origins is not None and info.index is not None:  # the rows that pad a stack have no factors
            seen |= info.index[name] >= sum(origin.blocks for origin in info.origins[name])
        moved = jnp.where(seen, 0, old + 1)
        return moved if info.any_finite is None else jnp.where(info.any_finite, moved, old)

    return jax.tree_util.tree_map_with_path(one, unseen, seen)

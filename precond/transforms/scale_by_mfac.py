"""Invert the empirical Fisher matrix of the last gradients without a matrix of its size: M-FAC."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike

from precond.arguments import check_bound, check_number, check_whole, described
from precond.blocks import KnownParameters, check_shapes, known_parameters
from precond.boxes import boxed_like, unboxed, with_axis_in_front
from precond.linalg.lapack import solve_positive
from precond.transformation import transformation
from precond.transforms.rows import Rows, dense_rows
from precond.trees import Leaf, Tree, common_dtype, wide, wide_dtype

__all__ = ["MFACState", "scale_by_mfac"]


class MFACState(NamedTuple):
    """Hold the state of `scale_by_mfac`.

    Attributes:
      count: the number of gradients taken into the window.
      window: the last gradients, `[m, ...]` for each parameter, or in the form of `rows`; float32 or wider, and zeros
        at first.
      gram: the inner products of the gradients, `[m, m]`.
      known: the parameters whose gradients they are, by hashes of their paths.
    """

    count: jax.Array
    window: Tree
    gram: jax.Array
    known: KnownParameters


@described(explain=True)
def scale_by_mfac(
    window: int = 64,
    damping: ArrayLike = 1e-5,
    *,
    rows: Rows | None = None,
    axis: str | tuple[str, ...] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Multiply the gradient by the inverse of the Fisher matrix of the last m gradients.

    $$P = F^{-1} g, \qquad F = \lambda I + \frac{1}{m} \sum_{i=1}^m g_i g_i^\top$$

    By Woodbury's identity, with the gradients as the rows of $G \in \mathbb{R}^{m \times d}$ and $g$ as its row j,

    $$F^{-1} g = m \, G^\top (m \lambda I + G G^\top)^{-1} e_j$$

    The textbook form $\lambda^{-1} (g - G^\top (m \lambda I + G G^\top)^{-1} G g)$ is the same in exact arithmetic. But
    if λ is small, it subtracts two vectors that agree in all digits but the last; the form above subtracts nothing. A
    step costs two passes over the window, for the new row of $G G^\top$ and for $G^\top$, and the solution of an m×m
    system. The window takes m times the memory of the parameters, or a 66th of that with
    `rows=precond.transforms.sparse_rows(0.01)`.

    Before there are m gradients, the missing ones count as zeros, as in the official implementation. The sum is divided
    by m all the same, so the first steps are long (the first is $m g / \|g\|^2$ if λ is small).

    **Over devices.** All work consists of sums over the parameters, wherever they are. If a parameter is sharded,
    `init` shards its window in the same way (under `jax.jit` with an automatic mesh give it `out_shardings`), and
    devices send the row alone, m numbers. If parameters are replicated, shard the window itself by such an `init`;
    devices then send the row and the update. Inside your own `shard_map` or `pmap`, where each device sees a shard of
    every parameter, give `axis`. Inside `precond.blocked` on one device the window holds stacks.

    Args:
      window: m. The paper has up to 1024; most memories can hold the default.
      damping: λ, in the units of a squared gradient. If rounding would hide it, $\epsilon \max_i \|g_i\|^2$ takes its
        place, with $\epsilon$ the unit of rounding.
      rows: how gradients are stored. None stores them as they are, `precond.transforms.sparse_rows` their largest
        entries alone. The stored part of the newest gradient is preconditioned.
      axis: the mesh axes over which parameters are sharded, inside `shard_map` or `pmap`.

    Returns:
      A transformation; updates have the dtype of the gradients. A gradient whose square is not finite has a zero
      update and does not enter the window.

    Raises:
      ValueError, TypeError: for a window below 1 or a negative damping.

    Reference:
      Frantar, Kurtic and Alistarh, M-FAC: Efficient Matrix-Free Approximations of Second-Order Information, 2021.

    Examples:
      >>> tx, g = scale_by_mfac(window=2, damping=0.5), jnp.asarray([2.0, 0.0])
      >>> [round(x, 5) for x in tx.update(g, tx.init(g))[0].tolist()]  # 2 / (1/2 + 2^2 / 2)
      [0.8, 0.0]
    """
    check_whole("window", window, least=1)
    check_number("damping", damping, 0)

    kept_as = dense_rows() if rows is None else rows

    def init(params: optax.Params) -> MFACState:
        known = known_parameters(params)

        def empty(p: Leaf) -> Tree:
            stored = kept_as.store(jnp.zeros_like(p, dtype=wide_dtype(p)))
            return jax.tree.map(lambda x: jnp.zeros_like(jnp.broadcast_to(x, (window, *x.shape))), stored)

        gram = jnp.zeros((window, window), common_dtype(params))
        # Without leaves one array replaces all windows; optax.tree.map_params does not take it for a parameter.
        kept = with_axis_in_front(jax.tree.map(empty, params)) if jax.tree.leaves(params) else jnp.zeros((0,))
        return MFACState(jnp.zeros([], jnp.int32), kept, gram, known)

    def solve(gram: jax.Array, slot: jax.Array) -> jax.Array:
        floor = jnp.finfo(gram.dtype).eps * jnp.max(jnp.diagonal(gram))
        ridge = window * jnp.maximum(jnp.asarray(damping, gram.dtype), floor)
        ridge = jnp.where(ridge > 0, ridge, 1)
        unit = (jnp.arange(window) == slot).astype(gram.dtype)
        damped = gram + ridge * jnp.eye(window, dtype=gram.dtype)
        return window * solve_positive(damped[None], unit[None, :, None])[0, :, 0]

    def products(windows: list[Tree], gradients: list[jax.Array], dtype: jnp.dtype) -> jax.Array:
        pairs = zip(windows, gradients, strict=True)
        return functools.reduce(jnp.add, [kept_as.products(*pair).astype(dtype) for pair in pairs])

    def update(
        updates: optax.Updates, state: MFACState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, MFACState]:
        check_shapes(updates, params)
        del params, extra
        updates = jax.tree.map(jnp.asarray, updates)
        leaves, treedef = jax.tree.flatten(wide(unboxed(updates)))
        if not leaves:
            return updates, state._replace(count=jnp.asarray(optax.safe_increment(state.count)))
        windows = treedef.flatten_up_to(unboxed(state.window))
        slot = state.count % window
        mine = jnp.arange(window) == slot
        new = [kept_as.store(g) for g in leaves]
        alone = [jax.tree.map(lambda x: x[None], stored) for stored in new]
        seen = [kept_as.combine(one, jnp.ones(1), g) for one, g in zip(alone, leaves, strict=True)]
        row, square = (products(rows, seen, state.gram.dtype) for rows in (windows, alone))
        if axis is not None:
            check_bound(axis)
            row, square = lax.psum((row, square), axis)
        row = jnp.where(mine, square, row)
        finite = jnp.all(jnp.isfinite(row))
        gram = jnp.where(mine[:, None], row[None], jnp.where(mine[None], row[:, None], state.gram))
        gram = jnp.where(finite, gram, state.gram)

        def push(rows: jax.Array, x: jax.Array) -> jax.Array:
            kept = lax.dynamic_index_in_dim(rows, slot, keepdims=False)
            return lax.dynamic_update_index_in_dim(rows, jnp.where(finite, x, kept), slot, 0)

        windows = [jax.tree.map(push, *pair) for pair in zip(windows, new, strict=True)]
        weights = jnp.where(finite, solve(gram, slot), 0)
        foreign, known = state.known.seeing(updates)
        out = treedef.unflatten([kept_as.combine(r, weights, g) for r, g in zip(windows, leaves, strict=True)])
        out = jax.tree.map(lambda x: jnp.where(foreign, jnp.inf, x), out)  # nobody goes on with others' gradients
        count = jnp.where(finite, optax.safe_increment(state.count), state.count)
        kept = boxed_like(treedef.unflatten(windows), state.window)
        return optax.tree.cast_like(boxed_like(out, updates), updates), MFACState(count, kept, gram, known)

    return transformation(init, update)

"""Orthogonalize matrices: make their singular values about 1."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from precond.arguments import check_part, described
from precond.blocks import BlockInfo, info_of, keep_finite, path_name, refuse_single_blocks
from precond.control_flow import run_if
from precond.linalg import isometry_error
from precond.orthogonal import Orthogonalizer, Scale, newton_schulz
from precond.transformation import transformation
from precond.transforms.homes import compute_at, homes_of
from precond.trees import real_dtype

__all__ = ["OrthogonalizeState", "orthogonalize"]


class OrthogonalizeState(NamedTuple):
    """Hold the state of `orthogonalize`.

    Attributes:
      count: updates seen.
      error: an estimate, for each stack, of the root mean square of $s^2 - 1$ over the singular values s of each block,
        `[N]`, in the last step that took them whole.
    """

    count: jax.Array
    error: Any


@described()
def orthogonalize(
    method: Orthogonalizer | None = None, *, scale: Scale | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Replace every matrix of a stack by the orthogonal matrix that is nearest to it, or about that.

    $$U S V^\top \mapsto c \, U V^\top$$

    It runs inside `precond.blocked`, on stacks `[N, m, n]`; a block of one axis counts as a matrix with one column.
    With a momentum before it, it is Muon. The state holds an estimate of how far singular values are from 1, and
    `precond.metrics` shows it. The estimate takes two products of each matrix with a vector.

    Rounding in bfloat16 can take a singular value out of the interval in which polynomials converge, and it then grows
    beyond all bounds. Where this is seen, the update of the matrix is zero in that step.

    Args:
      method: `precond.orthogonal.newton_schulz()` (the default), `precond.orthogonal.polar()`, or one of them in
        `precond.orthogonal.block_periodic`.
      scale: c, from the sides of a block: `precond.orthogonal.width()` or `precond.orthogonal.match_rms()`. None is 1.

    Returns:
      A transformation of stacks.

    Raises:
      TypeError: for a method or a scale of another kind.
      ValueError: in `init` for arrays of more than three axes; in `update` also for arrays that are not stacks.

    Examples:
      >>> import precond
      >>> tx = precond.blocked(orthogonalize(precond.orthogonal.polar()), block_size=None)
      >>> g = {"kernel": jnp.asarray([[3.0, 0.0], [0.0, -0.5]])}
      >>> tx.update(g, tx.init(g))[0]["kernel"].tolist()
      [[1.0, 0.0], [0.0, -1.0]]
    """
    method = newton_schulz() if method is None else method
    check_part("method", method, Orthogonalizer, "precond.orthogonal.newton_schulz()")
    if scale is not None:
        check_part("scale", scale, Scale, "precond.orthogonal.match_rms(0.2)")

    def init(params: Any) -> OrthogonalizeState:
        _check_axes(params)
        errors = jax.tree.map(lambda x: jnp.zeros(x.shape[:1], real_dtype(x)), params)
        return OrthogonalizeState(jnp.zeros([], jnp.int32), errors)

    def scaled(matrices: jax.Array) -> jax.Array:
        return matrices if scale is None else (matrices * scale.factor(*matrices.shape[1:])).astype(matrices.dtype)

    def orthogonal(matrices: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = method.apply(matrices)
        error = isometry_error(lax.stop_gradient(found))  # a root has no derivative at 0
        # If the largest error is infinite, only results that are not finite are thrown away.
        limit = method.largest_error
        good = error < limit if math.isfinite(limit) else jnp.all(jnp.isfinite(found), axis=(1, 2))
        found = jnp.where(good[:, None, None], found, 0)
        # Where the iteration diverges, the metric is the largest number: metrics are finite.
        return scaled(found), jnp.nan_to_num(error, nan=jnp.finfo(error.dtype).max)

    def whole(matrices: jax.Array, before: jax.Array) -> tuple[jax.Array, jax.Array]:
        found, error = orthogonal(matrices)
        return found, error.astype(before.dtype)

    def cut(matrices: jax.Array, before: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _by_block(lambda x: orthogonal(x)[0], matrices, method.block_size or 1), before

    def either(matrices: jax.Array, before: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
        if method.block_size is None or max(matrices.shape[1:]) <= method.block_size or method.period == 1:
            return whole(matrices, before)
        return run_if(count % method.period == 0, whole, cut, matrices, before)

    def update(
        updates: Any, state: OrthogonalizeState, params: Any = None, *, blocks: Any = None, **extra: Any
    ) -> tuple[Any, OrthogonalizeState]:
        del params, extra
        _check_stacks(updates, blocks)
        leaves, treedef = jax.tree.flatten(updates)
        info = info_of(blocks)
        finite = info.finite
        columns = [treedef.flatten_up_to(t) if t is not None else [None] * len(leaves) for t in (state.error, finite)]
        paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(updates)]
        matrices = [x if x.ndim == 3 else x[..., None] for x in leaves]
        homes, out, errors = homes_of(paths, matrices, info), [], []
        for home, x, matrix, before, ok in zip(homes, leaves, matrices, *columns, strict=True):
            found, error = compute_at(home, info, either, matrix, before, state.count)
            out.append(found.reshape(x.shape))
            errors.append(keep_finite(ok, error, before))
        new = OrthogonalizeState(info.advance(state.count), treedef.unflatten(errors))
        return treedef.unflatten(out), new

    return transformation(init, update)


def _by_block(function: Callable[[jax.Array], jax.Array], x: jax.Array, size: int) -> jax.Array:
    """Cut matrices into blocks of sides up to this one, filled up with zeros, and put the results together."""
    pieces = [-(-d // size) for d in x.shape[1:]]
    rows, columns = (-(-d // k) for d, k in zip(x.shape[1:], pieces, strict=True))
    (above, beside), (n, m, k) = pieces, x.shape
    filled = jnp.pad(x, [(0, 0), (0, above * rows - m), (0, beside * columns - k)])
    blocks = filled.reshape(n, above, rows, beside, columns).swapaxes(2, 3)
    out = function(blocks.reshape(-1, rows, columns)).reshape(blocks.shape)
    return out.swapaxes(2, 3).reshape(filled.shape)[:, :m, :k]


def _check_stacks(updates: Any, blocks: Any) -> None:
    refuse_single_blocks("orthogonalize", blocks)
    _check_axes(updates, (2, 3) if isinstance(blocks, BlockInfo) else (3,))


def _check_axes(stacks: Any, allowed: tuple[int, ...] = (2, 3)) -> None:
    for path, x in jax.tree_util.tree_leaves_with_path(stacks):
        if x.ndim not in allowed:
            raise ValueError(
                f"orthogonalize() takes stacks of matrices, [N, m, n], but {jax.tree_util.keystr(path)} has the shape "
                f"{x.shape}. Give precond.blocked a view with two axes for these parameters (views=), such as "
                "precond.View((0, 1)), in which a group of axes counts as one: precond.View(((0, 1), 2))."
            )

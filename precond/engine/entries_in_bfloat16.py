"""Store momentum and second moments in bfloat16 with stochastic rounding."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import KeyPath

from precond.arguments import as_direction, check_transformation
from precond.blocks import BlockInfo, info_of, leaves_of, path_name
from precond.engine.scale_by_kronecker import KroneckerState
from precond.linalg import round_stochastically
from precond.roots import RootState
from precond.transformation import transformation
from precond.trees import Tree, wide_dtype

__all__ = ["EntriesInBfloat16State", "entries_in_bfloat16"]


class EntriesInBfloat16State(NamedTuple):
    """Hold the state of `entries_in_bfloat16`.

    Attributes:
      rounds: the number of updates so far in which some block was finite. The noise depends on this number alone.
      in_bfloat16: the state of the inner transformation, with its numbers for single entries in bfloat16.
        `precond.checkpoints` ignores this level of the tree, so that states of both types convert into each other.
    """

    rounds: jax.Array
    in_bfloat16: optax.OptState


def entries_in_bfloat16(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""Store a transformation's momentum and second moments in bfloat16 with stochastic rounding.

    They are widened before each update, and afterwards rounded up or down by chance, so that the mean stays the same:

    $$\hat x \in \{x_\downarrow, x_\uparrow\}, \qquad |\hat x - x| < 2^{-7} |x|, \qquad E[\hat x] = x$$

    Rounding to the nearest would lose every change below $2^{-9}$: with a decay of 0.999 a second moment would hardly
    move. An array of the state has a number for each entry if it has the shape of one of the updates, and at least two
    axes. Everything else stays as it is. Factors and roots also stay if they have such a shape. The noise depends on
    the number of the step and on the place in a block, or in a row of a parameter, alone. So it is the same on every
    mesh, and after a restart.

    Args:
      inner: a transformation of stacks `[N, d1, .., dk]` or of parameters.

    Returns:
      A transformation of the same.

    Reference:
      Gupta, Agrawal, Gopalakrishnan and Narayanan, Deep Learning with Limited Numerical Precision, 2015.

    Examples:
      >>> tx, stacks = entries_in_bfloat16(optax.trace(0.5)), {"2": jnp.ones((3, 2))}
      >>> _, state = tx.update(stacks, tx.init(stacks))
      >>> state.in_bfloat16.trace["2"].dtype.name
      'bfloat16'
    """
    check_transformation("inner", inner)
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> EntriesInBfloat16State:
        wide = _wide_dtypes(params)
        narrow = _mapped(lambda x: x.astype(jnp.bfloat16) if _is_wide(x, wide) else x, inner.init(params), params)
        return EntriesInBfloat16State(jnp.zeros([], jnp.int32), narrow)

    def update(
        updates: optax.Updates,
        state: EntriesInBfloat16State,
        params: optax.Params | None = None,
        *,
        blocks: BlockInfo | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, EntriesInBfloat16State]:
        wide = _wide_dtypes(updates)

        def widened(x: jax.Array) -> jax.Array:
            return x.astype(wide.get(x.shape, x.dtype)) if x.dtype == jnp.bfloat16 else x

        moved, new = inner.update(updates, _mapped(widened, state.in_bfloat16, updates), params, **extra, blocks=blocks)
        # The default generator may give other bits on another mesh.
        key = jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), state.rounds)
        seen = iter(range(len(jax.tree.leaves(new))))

        def rounded(x: jax.Array) -> jax.Array:
            if not _is_wide(x, wide):
                return x
            # All blocks have the same noise, so that it does not depend on the place of a block in its stack.
            noise = jax.random.bits(jax.random.fold_in(key, next(seen)), x.shape[1:], jnp.uint16)
            return round_stochastically(x, jnp.broadcast_to(noise, x.shape))

        return moved, EntriesInBfloat16State(info_of(blocks).advance(state.rounds), _mapped(rounded, new, updates))

    return as_direction(transformation(init, update), like=inner)


def _wide_dtypes(tree: Tree) -> dict[tuple[int, ...], jnp.dtype]:
    """Return the type in which the momentum of an array is computed, by the shape of the array."""
    found: dict[tuple[int, ...], jnp.dtype] = {}
    for x in jax.tree.leaves(tree):
        if x.ndim > 1 and jnp.issubdtype(x.dtype, jnp.floating):
            before = found.get(x.shape, jnp.dtype(jnp.float32))
            found[x.shape] = jnp.promote_types(wide_dtype(x), before)
    return found


def _is_wide(x: Any, wide: dict[tuple[int, ...], jnp.dtype]) -> bool:
    """Return whether an array has a number for each entry, in the type in which it is computed."""
    return np.shape(x) in wide and x.dtype == wide[np.shape(x)]


def _mapped(function: Callable[[Any], Any], state: Any, stacks: Tree) -> Any:
    """Apply a function to all arrays except factors, matrices derived from them, and numbers for their axes."""
    shapes = {name: x.shape for name, x in leaves_of(stacks).items()}

    def moved(path: KeyPath, root: RootState) -> RootState:
        own = shapes.get(path_name(path))
        moments = jax.tree.map(lambda x: function(x) if np.shape(x) == own else x, root.moments)
        return root._replace(moments=moments)

    def node(x: Any) -> Any:
        if not isinstance(x, KroneckerState):
            return function(x)
        roots = jax.tree_util.tree_map_with_path(moved, x.roots, is_leaf=lambda r: isinstance(r, RootState))
        return x._replace(roots=roots, momentum=jax.tree.map(function, x.momentum))

    return jax.tree.map(node, state, is_leaf=lambda x: isinstance(x, KroneckerState))

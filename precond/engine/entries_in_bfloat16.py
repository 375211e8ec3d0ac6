"""Store momentum, second moments and factors in bfloat16 with stochastic rounding."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import tree_util
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


def entries_in_bfloat16(
    inner: optax.GradientTransformation, *, momentum: bool = True, factors: bool = False
) -> optax.GradientTransformationExtraArgs:
    r"""Store a transformation's momentum and second moments, or factors, in bfloat16 with stochastic rounding.

    They are widened before each update, and afterwards rounded up or down by chance, so that the mean stays the same:

    $$\hat x \in \{x_\downarrow, x_\uparrow\}, \qquad |\hat x - x| < 2^{-7} |x|, \qquad E[\hat x] = x$$

    Rounding to the nearest would lose every change below $2^{-9}$: with a decay of 0.999 a second moment would hardly
    move. An array of the state has a number for each entry if it has the shape of one of the updates, and at least two
    axes. Everything else stays as it is. Roots also stay if they have such a shape. The noise depends on
    the number of the step and on the place in a block, or in a row of a parameter, alone. So it is the same on every
    mesh, and after a restart.

    Args:
      inner: a transformation of stacks `[N, d1, .., dk]` or of parameters.
      momentum: whether momentum is rounded, too. Where it is rotated and then divided, as in SOAP, the rounding of
        large entries would spread over the small ones.
      factors: whether the factors of `precond.scale_by_kronecker` are rounded, too.

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

    where = _Where(momentum, factors)

    def init(params: optax.Params) -> EntriesInBfloat16State:
        narrow = where.mapped(lambda x, wide: x.astype(jnp.bfloat16) if wide else x, inner.init(params), params)
        return EntriesInBfloat16State(jnp.zeros([], jnp.int32), narrow)

    def update(
        updates: optax.Updates,
        state: EntriesInBfloat16State,
        params: optax.Params | None = None,
        *,
        blocks: BlockInfo | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, EntriesInBfloat16State]:
        dtypes = _wide_dtypes(updates)
        widest = jnp.result_type(jnp.float32, *dtypes.values())

        def widened(x: jax.Array, wide: bool) -> jax.Array:
            del wide  # of what is stored
            return x.astype(dtypes.get(x.shape, widest)) if x.dtype == jnp.bfloat16 else x

        given = where.mapped(widened, state.in_bfloat16, updates)
        moved, new = inner.update(updates, given, params, **extra, blocks=blocks)
        # The default generator may give other bits on another mesh.
        key = jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), state.rounds)
        seen = iter(range(len(jax.tree.leaves(new))))

        def rounded(x: jax.Array, wide: bool) -> jax.Array:
            if not wide:
                return x
            # All blocks have the same noise, so that it does not depend on the place of a block in its stack.
            noise = jax.random.bits(jax.random.fold_in(key, next(seen)), x.shape[1:], jnp.uint16)
            return round_stochastically(x, jnp.broadcast_to(noise, x.shape))

        narrow = where.mapped(rounded, new, updates)
        return moved, EntriesInBfloat16State(info_of(blocks).advance(state.rounds), narrow)

    return as_direction(transformation(init, update), like=inner)


def _wide_dtypes(tree: Tree) -> dict[tuple[int, ...], jnp.dtype]:
    """Return the type in which the momentum of an array is computed, by the shape of the array."""
    found: dict[tuple[int, ...], jnp.dtype] = {}
    for x in jax.tree.leaves(tree):
        if x.ndim > 1 and jnp.issubdtype(x.dtype, jnp.floating):
            before = found.get(x.shape, jnp.dtype(jnp.float32))
            found[x.shape] = jnp.promote_types(wide_dtype(x), before)
    return found


class _Where(NamedTuple):
    """Say which arrays of a state are stored in bfloat16, beside second moments."""

    momentum: bool
    factors: bool

    def mapped(self, function: Callable[[Any, bool], Any], state: Any, stacks: Tree) -> Any:
        """Apply a function to all arrays that may be, and tell it whether each is in the type of its computation."""
        shapes, dtypes = {name: x.shape for name, x in leaves_of(stacks).items()}, _wide_dtypes(stacks)

        def entries(x: Any) -> Any:
            return function(x, np.shape(x) in dtypes and x.dtype == dtypes[np.shape(x)])

        def factor(x: Any) -> Any:
            return function(x, x.ndim > 1 and x.dtype in (jnp.float32, jnp.float64))

        def of_root(path: KeyPath, root: RootState) -> RootState:
            own = shapes.get(path_name(path))
            return root._replace(moments=jax.tree.map(lambda x: entries(x) if np.shape(x) == own else x, root.moments))

        def node(path: KeyPath, x: Any) -> Any:
            if not isinstance(x, KroneckerState):
                return entries(x) if self.momentum or tree_util.GetAttrKey("momentum") not in path else x
            return x._replace(
                roots=tree_util.tree_map_with_path(of_root, x.roots, is_leaf=lambda r: isinstance(r, RootState)),
                momentum=jax.tree.map(entries, x.momentum) if self.momentum else x.momentum,
                statistics=jax.tree.map(factor, x.statistics) if self.factors else x.statistics,
            )

        return tree_util.tree_map_with_path(node, state, is_leaf=lambda x: isinstance(x, KroneckerState))

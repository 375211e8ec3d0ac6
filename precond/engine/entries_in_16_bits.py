"""Store momentum and second moments in 16 bits with stochastic rounding."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import GetAttrKey, KeyPath

from precond.arguments import as_direction, check_transformation
from precond.blocks import BlockInfo, info_of, leaves_of, path_name
from precond.engine.scale_by_kronecker import KroneckerState
from precond.linalg import FixedPoint, round_stochastically
from precond.linalg import fixed_point as in_fixed_point
from precond.roots import RootState
from precond.transformation import transformation
from precond.trees import Tree, wide_dtype

__all__ = ["EntriesIn16BitsState", "entries_in_16_bits"]


class EntriesIn16BitsState(NamedTuple):
    """Hold the state of `entries_in_16_bits`.

    Attributes:
      rounds: the number of updates so far in which some block was finite. The noise depends on this number alone.
      in_16_bits: the state of the inner transformation, with its numbers for single entries in 16 bits.
        `precond.checkpoints` ignores this level of the tree, so that states of both types convert into each other.
    """

    rounds: jax.Array
    in_16_bits: optax.OptState


def entries_in_16_bits(inner: optax.GradientTransformation, *fixed_point: str) -> optax.GradientTransformationExtraArgs:
    r"""Store a transformation's momentum and second moments in 16 bits with stochastic rounding.

    They are widened before each update, and afterwards rounded up or down by chance, so that the mean stays the same.
    In bfloat16 a number is off by less than a 128th of itself. In fixed point it is off by less than a 16384th of the
    largest number s in its row of a block:

    $$E[\hat x] = x, \qquad |\hat x - x| < 2^{-7} |x| \quad \text{or} \quad |\hat x - x| < 2^{-14} s$$

    Rounding to the nearest would lose every change below $2^{-9}$: with a decay of 0.999 a second moment would hardly
    move. An array of the state has a number for each entry if it has the shape of one of the updates, and at least two
    axes. Everything else stays as it is. Factors and roots also stay if they have such a shape, and so do numbers of
    float64, since squares of them can be too large for bfloat16. The noise depends on the number of the step and on the
    place in a block, or in a row of a parameter, alone. So it is the same on every mesh, and after a restart.

    Args:
      inner: a transformation of stacks `[N, d1, .., dk]` or of parameters.
      *fixed_point: the names of the fields that are stored in fixed point (`"ema"`); all others are in bfloat16. It is
        for a momentum that is rotated into a basis afterwards, as in SOAP. There the errors of large numbers mix into
        small ones, and in bfloat16 they are up to 128 times as large. Do not name second moments: small ones would be
        0 in fixed point.

    Returns:
      A transformation of the same.

    Raises:
      ValueError: in `init`, for a field that the state has not.

    Reference:
      Gupta, Agrawal, Gopalakrishnan and Narayanan, Deep Learning with Limited Numerical Precision, 2015.

    Examples:
      >>> tx, stacks = entries_in_16_bits(optax.trace(0.5)), {"2": jnp.ones((3, 2))}
      >>> _, state = tx.update(stacks, tx.init(stacks))
      >>> state.in_16_bits.trace["2"].dtype.name
      'bfloat16'
    """
    check_transformation("inner", inner)
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> EntriesIn16BitsState:
        wide, seen = _wide_dtypes(params), set[str]()

        def narrow(fields: set[str], x: jax.Array) -> jax.Array | FixedPoint:
            seen.update(fields)
            if not _is_wide(x, wide):
                return x
            return x.astype(jnp.bfloat16) if fields.isdisjoint(fixed_point) else in_fixed_point(x)

        kept = _mapped(narrow, inner.init(params), params)
        if seen and (unknown := [name for name in fixed_point if name not in seen]):
            raise ValueError(f"fixed_point={unknown[0]!r} is not a field of the state, which has {sorted(seen)}.")
        return EntriesIn16BitsState(jnp.zeros([], jnp.int32), kept)

    def update(
        updates: optax.Updates,
        state: EntriesIn16BitsState,
        params: optax.Params | None = None,
        *,
        blocks: BlockInfo | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, EntriesIn16BitsState]:
        wide = _wide_dtypes(updates)

        def widened(_: set[str], x: jax.Array | FixedPoint) -> jax.Array:
            if isinstance(x, FixedPoint):
                return x.numbers()
            return x.astype(wide.get(x.shape, x.dtype)) if x.dtype == jnp.bfloat16 else x

        moved, new = inner.update(updates, _mapped(widened, state.in_16_bits, updates), params, **extra, blocks=blocks)
        # The default generator may give other bits on another mesh.
        key = jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), state.rounds)
        seen = iter(range(len(jax.tree.leaves(new))))

        def rounded(fields: set[str], x: jax.Array) -> jax.Array | FixedPoint:
            if not _is_wide(x, wide):
                return x
            # All blocks have the same noise, so that it does not depend on the place of a block in its stack.
            noise = jax.random.bits(jax.random.fold_in(key, next(seen)), x.shape[1:], jnp.uint16)
            rounding = round_stochastically if fields.isdisjoint(fixed_point) else in_fixed_point
            return rounding(x, jnp.broadcast_to(noise, x.shape))

        return moved, EntriesIn16BitsState(info_of(blocks).advance(state.rounds), _mapped(rounded, new, updates))

    return as_direction(transformation(init, update), like=inner)


def _wide_dtypes(tree: Tree) -> dict[tuple[int, ...], jnp.dtype]:
    """Return the type in which the momentum of an array is computed, by the shape of the array."""
    found: dict[tuple[int, ...], jnp.dtype] = {}
    for x in jax.tree.leaves(tree):
        if np.ndim(x) > 1 and jnp.issubdtype(x.dtype, jnp.floating):
            before = found.get(x.shape, jnp.dtype(jnp.float32))
            found[x.shape] = jnp.promote_types(wide_dtype(x), before)
    return found


def _is_wide(x: Any, wide: dict[tuple[int, ...], jnp.dtype]) -> bool:
    """Return whether an array has a number for each entry, in float32."""
    return wide.get(np.shape(x)) == x.dtype == jnp.float32


def _mapped(function: Callable[[set[str], Any], Any], state: Any, stacks: Tree) -> Any:
    """Apply a function to all arrays except factors, matrices derived from them, and numbers for their axes.

    Args:
      function: takes the names of the fields that an array is in, and the array.
      state: a state.
      stacks: the stacks that it is of.
    """
    shapes = {name: np.shape(x) for name, x in leaves_of(stacks).items()}

    def one(path: KeyPath, x: Any) -> Any:
        return function({key.name for key in path if isinstance(key, GetAttrKey)}, x)

    def moved(path: KeyPath, root: RootState) -> RootState:
        own = shapes.get(path_name(path))
        return root._replace(moments=mapped(lambda p, x: one(p, x) if np.shape(x) == own else x, root.moments))

    def node(path: KeyPath, x: Any) -> Any:
        if not isinstance(x, KroneckerState):
            return one(path, x)
        roots = jax.tree_util.tree_map_with_path(moved, x.roots, is_leaf=lambda r: isinstance(r, RootState))
        return x._replace(roots=roots, momentum=mapped(one, x.momentum))

    def mapped(function: Callable[[KeyPath, Any], Any], tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            function, tree, is_leaf=lambda x: isinstance(x, KroneckerState | FixedPoint)
        )

    return mapped(node, state)

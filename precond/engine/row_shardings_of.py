"""Find how the arrays of a state are divided over devices: by their rows, if these are the rows of a stack."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from precond.blocks import Layout
from precond.engine.mixes_blocks import mixes_blocks
from precond.engine.scale_by_kronecker import KroneckerState
from precond.mesh import Placement, RowSharding, RowShardings
from precond.trees import Tree

__all__ = ["row_shardings_of", "stack_row_shardings"]


def row_shardings_of(
    inner: optax.GradientTransformation, stacks: Mapping[str, jax.ShapeDtypeStruct], placement: Placement | None
) -> RowShardings:
    """Find which arrays of a state have the length of a stack, and over which axes each is divided.

    Args:
      inner: a transformation of stacks.
      stacks: the shapes and dtypes of the stacks.
      placement: the placement of the stacks; None divides nothing.

    Returns:
      A tree of `RowSharding` of the structure of the state, or None.

    Raises:
      ValueError: for an array that counts blocks along another axis than the first; for a transformation whose update
        of one block depends on others.

    Examples:
      >>> row_shardings_of(optax.identity(), {}, None) is None
      True
    """
    if placement is None:
        return None
    if placement.count > 1 and mixes_blocks(inner):
        raise ValueError(
            f"inner= changes one block by the others, and axis= divides the blocks over {placement.count} devices: put "
            f"it into precond.per_block, outside of precond.blocked, or leave axis= out."
        )

    def state(times: int) -> optax.OptState:
        longer = {n: jax.ShapeDtypeStruct((times * s.shape[0], *s.shape[1:]), s.dtype) for n, s in stacks.items()}
        return jax.eval_shape(lambda stacks: inner.init(stacks), longer)  # see `describing`

    lengths = jax.tree.map(_length, state(1), state(2))

    def over(axes: tuple[str, ...], lengths: Tree) -> RowShardings:
        return jax.tree.map(lambda n: RowSharding(n, axes) if n else RowSharding(), lengths)

    def engine(x: Any) -> bool:
        return isinstance(x, KroneckerState)

    # Statistics are divided over all axes of the placement, and all else over the axes of directions.
    def one(x: Any) -> Any:
        if not engine(x):
            return over(placement.direction_axes, x)
        return over(placement.direction_axes, x)._replace(statistics=over(placement.axes, x.statistics))

    return jax.tree.map(one, lengths, is_leaf=engine)


def _length(once: jax.ShapeDtypeStruct, twice: jax.ShapeDtypeStruct) -> int:
    """Return the rows of an array of the state, or 0 if it has none.

    It is compared with the array of stacks of twice the length, where an axis that is as long by chance stays.
    """
    if once.shape == twice.shape:
        return 0
    if once.shape[1:] != twice.shape[1:]:
        raise ValueError(
            f"inner= keeps an array of shape {once.shape}, whose first axis does not count blocks, so that axis= "
            f"cannot divide it: put the transformation outside of precond.blocked, or leave axis= out."
        )
    return once.shape[0]


def stack_row_shardings(
    inner: optax.GradientTransformation, layout: Layout, placement: Placement | None
) -> RowShardings:
    """Return the shardings of the state of the stacks of a layout, and of their block ids.

    Args:
      inner: as in `row_shardings_of`.
      layout: the layout of the parameters.
      placement: as in `row_shardings_of`.

    Examples:
      >>> from precond.blocks import default_views, layout_of
      >>> stack_row_shardings(optax.identity(), layout_of({}, default_views, 4), None) is None
      True
    """
    if placement is None:
        return None
    block_ids = {name: RowSharding(s.shape[0], placement.axes) for name, s in layout.stacks.items()}
    return row_shardings_of(inner, layout.stacks, placement), block_ids

"""Check that a state belongs to the parameters that an update is given."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from precond.blocks.block_ids import STARTS, block_ids_of, hashed
from precond.blocks.layout import Layout
from precond.blocks.path_name import leaves_of

__all__ = ["check_block_ids", "check_inner", "first_difference"]

_ADVICE = (
    "Restore it with the parameters and the arguments with which it was made, or keep what fits: "
    "precond.checkpoints.adopt(tx, params, state)."
)


def check_block_ids(block_ids: Any, layout: Layout, *, divided: bool) -> None:
    """Raise if the names or the lengths of stacks differ between a state and the parameters. Only shapes are read.

    Args:
      block_ids: the block ids of the state.
      layout: the layout of the parameters.
      divided: whether a device may see no more than its share of a stack.

    Raises:
      ValueError: naming the first stack that differs.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond.blocks import layout_of, default_views
      >>> a, b = (
      ...     layout_of({"kernel": jnp.zeros((n, 8))}, default_views, None) for n in (4, 6)
      ... )
      >>> check_block_ids(block_ids_of(a), b, divided=False)
      Traceback (most recent call last):
      ...
      ValueError: state= is of other parameters, or of another block_size or views: it has no blocks 6x8, ...
    """
    found = {name: np.shape(x) for name, x in block_ids.items()} if isinstance(block_ids, dict) else {}
    other = "state= is of other parameters, or of another block_size or views:"
    for name, stack in layout.stacks.items():
        if name not in found:
            has = ", ".join(found) or "none at all"
            path = layout.origins()[name][0].path
            raise ValueError(f"{other} it has no blocks {name}, which '{path}' is cut into, but {has}. {_ADVICE}")
        length, there = stack.shape[0], found[name][0]
        if length != there and not divided:
            raise ValueError(f"{other} it has {there} blocks {name}, and {length} are needed. {_ADVICE}")
    if more := [name for name in found if name not in layout.stacks]:
        raise ValueError(f"{other} it has blocks {more[0]}, which no parameter is cut into. {_ADVICE}")


def check_inner(state: Any, expected: Any, *, divided: bool) -> None:
    """Raise if a state has other arrays, or arrays of other shapes, than `expected`.

    Args:
      state: the state of the transformation of stacks.
      expected: the state that it makes for these stacks; anything with shapes.
      divided: whether a device may see no more than its share of a stack.

    Raises:
      ValueError: naming the first array that differs, or that has another type where one of the two has 16 bits.

    Examples:
      >>> import jax.numpy as jnp
      >>> check_inner(
      ...     {"ema": jnp.ones(2)}, {"ema": jnp.ones(2), "nu": jnp.ones(2)}, divided=False
      ... )
      Traceback (most recent call last):
      ...
      ValueError: state= is of another optimizer: it has no 'nu'. ...
    """
    found, wanted = leaves_of(state), leaves_of(expected)
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(f"state= is of another optimizer: it has no '{missing[0]}'. {_ADVICE}")
    if more := [name for name in found if name not in wanted]:
        raise ValueError(f"state= is of another optimizer: it has '{more[0]}', too. {_ADVICE}")
    for name, x in wanted.items():
        shape, dtype = np.shape(found[name]), jnp.result_type(found[name])
        if shape != np.shape(x) and not divided:
            raise ValueError(
                f"state= is of another optimizer: '{name}' has the shape {shape}, not {np.shape(x)}. {_ADVICE}"
            )
        needed = jnp.result_type(x)
        if 2 in (dtype.itemsize, needed.itemsize) and dtype != needed:
            raise ValueError(
                f"state= has '{name}' in {dtype}, and it must be {needed}. Cast the state: "
                f"jax.tree.map(lambda x, y: x.astype(y.dtype), state, tx.init(params))."
            )


def first_difference(block_ids: dict[str, np.ndarray], layout: Layout, shapes: dict[str, tuple[int, ...]]) -> str:
    """Describe the first block that differs between a state and a layout: what it should be, and what it is.

    Args:
      block_ids: the block ids of the state, as known numbers.
      layout: the layout of the parameters.
      shapes: the shapes of the parameters by path.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond.blocks import layout_of, default_views
      >>> a, b = ({name: jnp.zeros((4, 6))} for name in "ab")
      >>> block_ids = block_ids_of(layout_of(a, default_views, 8))
      >>> layout = layout_of(b, default_views, 8)
      >>> first_difference(block_ids, layout, {"b": (4, 6)})
      "state= is of other parameters: where 'b' of shape (4, 6) has block 0 of 4x6, it has one of a parameter ..."
    """
    known = {hashed(path): path for path in layout.paths}
    for name, now in block_ids_of(layout).items():
        rows = block_ids.get(name, np.zeros((0, now.shape[1]), np.int32))
        count = max(len(now), len(rows))
        was, new = (np.pad(np.asarray(x), ((0, count - len(x)), (0, 0))) for x in (rows, now))
        differs = np.flatnonzero(np.any(was != new, axis=1))
        if differs.size:
            i = differs[0]
            return f"state= is of other parameters: {_told(name, i, was, new, known, shapes)} {_ADVICE}"
    return (
        f"state= is of other parameters: all blocks are the same, but the parameters without blocks have other paths, "
        f"or one of them is the last row of another parameter. {_ADVICE}"
    )


def _told(
    name: str, i: int, was: np.ndarray, new: np.ndarray, known: dict[int, str], shapes: dict[str, tuple[int, ...]]
) -> str:
    path, old = known.get(int(new[i, 0])), int(was[i, 0])
    wanted = "no parameter has" if path is None else f"'{path}' of shape {shapes[path]} has"
    if path is not None and old == new[i, 0]:
        same = was[i, 1] == new[i, 1]
        how = "is cut in another way" if same else "has another shape, or is read in another way"
        return f"'{path}' of shape {shapes[path]} {how}: block {i} of {name} began at {_start(was[i])} of its tensors."
    if old == 0:
        there = "no block"
    elif old in known:
        there = f"one of '{known[old]}'"
    else:
        there = f"one of a parameter that is not there now, with {np.sum(was[:, 0] == old)} blocks of this size"
    return f"where {wanted} block {i} of {name}, it has {there}."


def _start(row: np.ndarray) -> tuple[int, ...]:
    return tuple(int(x) for x in row[STARTS:])

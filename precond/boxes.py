"""Read Flax's boxes: parameters with names of axes that say how they are sharded. This is floor 0 of the library.

Flax is not imported. A box has `names` of axes, a `value`, and `replace`, as `flax.linen.Partitioned` has them.
"""

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax

__all__ = ["boxed_like", "find_box", "in_box", "unboxed", "with_axis_in_front"]


def _is_box(x: object) -> bool:
    return all(hasattr(x, name) for name in ("names", "value", "replace", "replace_boxed"))


def find_box(tree: object) -> Any:
    """Return the first box of a tree, or None.

    Examples:
      >>> find_box({"kernel": jax.numpy.ones(3)}) is None
      True
    """
    return next((x for x in jax.tree.leaves(tree, is_leaf=_is_box) if _is_box(x)), None)


def in_box(box: Any, x: Any, axes: Sequence[str], sizes: Mapping[str, int] | None = None) -> Any:
    """Put an array whose first axis is divided over these axes of a mesh into a box of its own.

    Args:
      box: a box like the new one. If it has logical names, the first axis gets a name that Flax's rules
        (`nn.logical_axis_rules`) turn into these axes of the mesh.
      x: an array.
      axes: the names of axes of the mesh.
      sizes: the sizes of the axes of the mesh, by their names; None if the mesh is not known.

    Examples:
      >>> from flax import linen as nn
      >>> box = nn.LogicallyPartitioned(jax.numpy.ones(3), ("embed",))
      >>> with nn.logical_axis_rules([("embed", "fsdp")]):
      ...     in_box(box, jax.numpy.ones((8, 3)), ("fsdp",)).names
      ('embed', None)
      >>> in_box(box, jax.numpy.ones((8, 3)), ("fsdp", "tensor")).names
      (('fsdp', 'tensor'), None)
      >>> in_box(box, jax.numpy.ones((8, 3)), ("fsdp",), {"data": 1, "fsdp": 8}).names
      (('fsdp', 'data'), None)
    """
    # Flax's rules leave a tuple as it is. A tuple of one name is its name to JAX, and rules replace it.
    first = tuple(axes) if len(axes) > 1 else _name(box, axes[0], sizes or {})
    return box.replace(value=x, names=(first, *[None] * (x.ndim - 1)))


def _name(box: Any, axis: str, sizes: Mapping[str, int]) -> Any:
    """Return what to write into a box so that Flax divides the first axis over this axis of the mesh.

    A box with logical names needs a logical name that the rules turn into this axis alone. If the rules have no such
    name, a pair of this axis and an axis of size 1 does the same, since rules leave pairs as they are.
    """
    if not hasattr(box, "rules"):
        return axis
    linen = sys.modules.get("flax.linen")
    rules = box.rules or (linen.get_logical_axis_rules() if linen is not None else ())
    first: dict[str, Any] = {}
    for name, over in rules:
        first.setdefault(name, (over,) if isinstance(over, str) else tuple(over or ()))
    found = next((name for name, over in first.items() if over == (axis,)), None)
    single = next((other for other, size in sizes.items() if size == 1 and other != axis), None)
    if found is None and single is not None:
        return (axis, single)
    if found is None:
        why = (
            f"none of the rules gives this axis alone. Add ({axis!r}, {axis!r}) to the rules"
            if rules
            else "no rules are known here. Call init and jax.eval_shape within nn.logical_axis_rules(rules), where one "
            f"rule gives {axis!r} alone"
        )
        warnings.warn(
            f"The state is not divided over axis={axis!r} where its shardings are made from logical names: {why}, or "
            f"make its shardings by precond.state_shardings(tx, params, mesh).",
            stacklevel=2,
        )
    return axis if found is None else found


def unboxed(tree: object) -> Any:
    """Return a tree with what is in the boxes in place of these.

    Examples:
      >>> from flax import linen as nn
      >>> unboxed({"kernel": nn.Partitioned(1.0, names=("data",))})
      {'kernel': 1.0}
    """
    return jax.tree.map(lambda x: x.value if _is_box(x) else x, tree, is_leaf=_is_box)


def boxed_like(tree: object, like: object) -> Any:
    """Put the leaves of a tree into the boxes of another one: the inverse of `unboxed`.

    Args:
      tree: a tree without boxes.
      like: a tree of the same structure, with boxes around some leaves.

    Examples:
      >>> from flax import linen as nn
      >>> boxed_like({"kernel": 2.0}, {"kernel": nn.Partitioned(1.0, names=("data",))})[
      ...     "kernel"
      ... ].value
      2.0
    """
    return jax.tree.map(lambda box, x: box.replace(value=x) if _is_box(box) else x, like, tree, is_leaf=_is_box)


def with_axis_in_front(tree: object) -> Any:
    """Add an axis without a name in front of the names of each box, for arrays that have one axis more.

    A box whose value is no longer one array with so many axes loses its names, and with them the box.

    Args:
      tree: a tree of boxes, each around an array that was made of its old array.

    Examples:
      >>> from flax import linen as nn
      >>> with_axis_in_front(nn.Partitioned(jax.numpy.ones((4, 8)), names=("embed",))).names
      (None, 'embed')
    """

    def one(x: Any) -> Any:
        if not _is_box(x):
            return x
        fits = hasattr(x.value, "ndim") and x.value.ndim == len(x.names) + 1
        return x.replace(names=(None, *x.names)) if fits else x.value

    return jax.tree.map(one, tree, is_leaf=_is_box)

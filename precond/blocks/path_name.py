"""Name parameters by their key paths, as text."""

import re
from typing import Any

from jax import tree_util

from precond.arguments import shown

__all__ = ["leaves_of", "parts_of", "path_name"]

_HELD = (tree_util.GetAttrKey("value"), tree_util.GetAttrKey("array"))
"""The attribute that holds the array of Flax's Variables and boxes, and that of Haliax's arrays."""

_HOLDERS = re.compile(r"(.*_)?(kernel|weights?|embeddings?|scale|bias|w|b)", re.I)


def path_name(path: tuple[Any, ...]) -> str:
    """Return a key path as `"layers/0/kernel"`, the same for nnx's state at `init` and `update`, and for boxes.

    An array that a class holds by itself has the path of the class: as the attribute `value` of Flax or `array` of
    Haliax, or, under a name such as `weight`, as the first leaf of a class that gives its leaves no names.

    Examples:
      >>> path_name(
      ...     (
      ...         tree_util.DictKey("layers"),
      ...         tree_util.SequenceKey(0),
      ...         tree_util.DictKey("kernel"),
      ...     )
      ... )
      'layers/0/kernel'
    """
    last, holder = path[-1:], tree_util.keystr(path[-2:-1], simple=True)
    nameless = last == (tree_util.FlattenedIndexKey(0),) and _HOLDERS.fullmatch(holder)
    if nameless or (last and last[0] in _HELD):
        path = path[:-1]
    return tree_util.keystr(path, simple=True, separator="/")


def leaves_of(tree: object) -> dict[str, Any]:
    """Return the leaves of a tree by path; a leaf in a box has the path of the box.

    Args:
      tree: a tree.

    Examples:
      >>> leaves_of({"first": {"kernel": 1.0}})
      {'first/kernel': 1.0}
    """
    return {path_name(path): leaf for path, leaf in tree_util.tree_flatten_with_path(tree)[0]}


def parts_of(path: str) -> tuple[str, ...]:
    """Return the parts of a path. PyTorch joins some of them by dots, and Keras ends with ":0".

    Args:
      path: the result of `path_name`.

    Raises:
      TypeError: for anything but text.

    Examples:
      >>> parts_of("model/h.0.attn.weight")
      ('model', 'h', '0', 'attn', 'weight')
    """
    if not isinstance(path, str):
        raise TypeError(f"A view is asked of the path {shown(path)}: the path of a parameter is text, 'dense/kernel'.")
    return tuple(re.split(r"[/.]", path.removesuffix(":0")))

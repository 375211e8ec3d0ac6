"""Name parameters by their key paths, as text."""

import re
from typing import Any

from jax import tree_util

from precond.arguments import shown

__all__ = ["leaves_of", "parts_of", "path_name"]

_HOLDERS = re.compile(r"(.*_)?(kernel|weights?|embeddings?|scale|bias|w|b)", re.I)


def path_name(path: tuple[Any, ...]) -> str:
    """Return a key path as `"layers/0/kernel"`, the same for nnx's state at `init` and `update`, and for boxes.

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
    # Flax's Variables and boxes add one level to the tree: an attribute called value.
    if path and isinstance(path[-1], tree_util.GetAttrKey) and path[-1].name == "value":
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

    An array that is the only leaf of a parameter, such as Haliax's `NamedArray`, has the path of the parameter. Its own
    name is then `array`, or `0` where the parameter has a name such as `weight`.

    Args:
      path: the result of `path_name`.

    Raises:
      TypeError: for anything but text.

    Examples:
      >>> parts_of("model/h.0.attn.weight")
      ('model', 'h', '0', 'attn', 'weight')
      >>> parts_of("attn/weight/array"), parts_of("attn/weight/0"), parts_of("layers/0")
      (('attn', 'weight'), ('attn', 'weight'), ('layers', '0'))
    """
    if not isinstance(path, str):
        raise TypeError(f"A view is asked of the path {shown(path)}: the path of a parameter is text, 'dense/kernel'.")
    parts = tuple(re.split(r"[/.]", path.removesuffix(":0")))
    held = len(parts) > 1 and (parts[-1] == "array" or (parts[-1] == "0" and _HOLDERS.fullmatch(parts[-2])))
    return parts[:-1] if held else parts

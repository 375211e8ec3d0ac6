"""Parts of nested dictionaries of parameters, by path, and the probes in them."""

from collections.abc import Mapping
from typing import Any

import jax

from precond.blocks import path_name

__all__ = ["PROBE", "inserted", "keys_to", "leaves_of", "subtree", "without"]

PROBE = "_kfac"
"""The key of a layer's probe among its parameters."""


def leaves_of(params: Any) -> dict[str, Any]:
    """Return leaves by path; leaves in boxes are inside these.

    Examples:
      >>> leaves_of({"first": {"kernel": 1.0}})
      {'first/kernel': 1.0}
    """
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}


def subtree(tree: Any, name: str) -> Any:
    """Return the part of a tree at a path.

    Args:
      tree: nested mappings.
      name: a path, of keys joined by slashes.

    Examples:
      >>> subtree({"first": {0: {"kernel": 1.0}}}, "first/0")
      {'kernel': 1.0}
    """
    for key in keys_to(tree, name):
        tree = tree[key]
    return tree


def keys_to(tree: Any, name: str) -> tuple[Any, ...]:
    """Return the keys that lead to the part of a tree at a path.

    A key may have slashes of its own, as those of Haiku do, and it need not be text: nnx numbers the entries of a list.

    Args:
      tree: nested mappings.
      name: a path, of keys joined by slashes.

    Raises:
      ValueError: if nothing is there.

    Examples:
      >>> keys_to({"mlp": {}, "mlp/~/linear": {0: {}}}, "mlp/~/linear/0")
      ('mlp/~/linear', 0)
    """
    found = _keys(tree, name)
    if found is None:
        raise ValueError(f"There is no layer {name!r} among the parameters, which are {list(tree)}.")
    return found


def _keys(tree: Any, name: str) -> tuple[Any, ...] | None:
    if not name:
        return ()
    for key in tree if isinstance(tree, Mapping) else ():
        if f"{name}/".startswith(f"{key}/"):
            rest = _keys(tree[key], name[len(str(key)) + 1 :])
            if rest is not None:
                return (key, *rest)
    return None


def inserted(tree: Any, name: str, probe: Any) -> Any:
    """Put a probe into the part of a tree at a path."""

    def insert(tree: Any, keys: tuple[Any, ...]) -> Any:
        return {**tree, keys[0]: insert(tree[keys[0]], keys[1:])} if keys else {**tree, PROBE: probe}

    return insert(tree, keys_to(tree, name))


def without(tree: Any) -> Any:
    """Return a tree without its probes."""
    return {k: without(v) for k, v in tree.items() if k != PROBE} if isinstance(tree, Mapping) else tree

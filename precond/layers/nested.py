"""Nested dictionaries of parameters: what is at a path, and probes beside it."""

from collections.abc import Mapping
from typing import Any

import jax

from precond.blocks import path_name

__all__ = ["PROBE", "at", "inserted", "keys_to", "leaves_of", "without"]

PROBE = "_kfac"
"""The key of a layer's probe among its parameters."""


def leaves_of(params: Any) -> dict[str, Any]:
    """Leaves by path; those of boxes are inside them."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}


def at(tree: Any, name: str) -> Any:
    """The part of a tree at a path."""
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
    """The tree, with a probe in the part at a path."""

    def insert(tree: Any, keys: tuple[Any, ...]) -> Any:
        return {**tree, keys[0]: insert(tree[keys[0]], keys[1:])} if keys else {**tree, PROBE: probe}

    return insert(tree, keys_to(tree, name))


def without(tree: Any) -> Any:
    """The tree, without the probes anywhere in it."""
    return {k: without(v) for k, v in tree.items() if k != PROBE} if isinstance(tree, Mapping) else tree

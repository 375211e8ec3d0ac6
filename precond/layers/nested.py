"""Find and replace parts of trees of parameters by path, and the probes in them."""

from typing import Any

import jax

from precond.blocks import Probe
from precond.layers.carriers import PROBE, carrying, parts_by_key, with_parts, without_probe

__all__ = ["PROBE", "inserted", "keys_to", "subtree", "without"]


def subtree(tree: object, name: str) -> Any:
    """Return the part of a tree at a path.

    Args:
      tree: a tree of nodes that JAX knows.
      name: a path, of keys joined by slashes.

    Examples:
      >>> subtree({"first": {0: {"kernel": 1.0}}}, "first/0"), subtree([(1.0, 2.0)], "0/1")
      ({'kernel': 1.0}, 2.0)
    """
    for key in keys_to(tree, name):
        tree = parts_by_key(tree)[key]
    return tree


def keys_to(tree: object, name: str) -> tuple[Any, ...]:
    """Return the keys that lead to the part of a tree at a path.

    A key may have slashes of its own, as those of Haiku do, and it need not be text: nnx numbers the entries of a list.

    Args:
      tree: a tree of nodes that JAX knows; a node that is not a mapping has keys of text.
      name: a path, of keys joined by slashes.

    Raises:
      ValueError: if nothing is there.

    Examples:
      >>> keys_to({"mlp": {}, "mlp/~/linear": {0: {}}}, "mlp/~/linear/0")
      ('mlp/~/linear', 0)
    """
    found = _keys(tree, name)
    if found is None:
        raise ValueError(f"There is no layer {name!r} among the parameters, which are {list(parts_by_key(tree))}.")
    return found


def _keys(tree: object, name: str) -> tuple[Any, ...] | None:
    if not name:
        return ()
    for key, part in parts_by_key(tree).items():
        if f"{name}/".startswith(f"{key}/"):
            rest = _keys(part, name[len(str(key)) + 1 :])
            if rest is not None:
                return (key, *rest)
    return None


def inserted(tree: Any, name: str, probe: Any) -> Any:
    """Put a probe into the part of a tree at a path."""

    def insert(tree: Any, keys: tuple[Any, ...]) -> Any:
        if not keys:
            return carrying(tree, probe)
        parts = parts_by_key(tree)
        return with_parts(tree, {**parts, keys[0]: insert(parts[keys[0]], keys[1:])})

    return insert(tree, keys_to(tree, name))


def without(tree: Any) -> Any:
    """Return a tree without its probes."""
    leaves = jax.tree.leaves(tree, is_leaf=_is_probe)
    if not any(map(_is_probe, leaves)):
        return tree
    plain = without_probe(tree)
    return with_parts(plain, {key: without(part) for key, part in parts_by_key(plain).items()})


def _is_probe(x: object) -> bool:
    return isinstance(x, Probe)

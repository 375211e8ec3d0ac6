"""Put a probe into nodes of parameters: dictionaries get one more entry, other nodes become instances of a subclass."""

import copy
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from precond.blocks import Probe

__all__ = ["PROBE", "carrying", "parts_by_key", "probe_of", "with_parts", "without_probe"]

PROBE = "_kfac"
"""The key, or the attribute, of a layer's probe among its parameters."""


def parts_by_key(node: object) -> Mapping[Any, Any]:
    """Return the parts of a node of a tree by their keys; a leaf has none.

    Examples:
      >>> parts_by_key({"first": (1.0, 2.0)}), parts_by_key((1.0, [2.0])), parts_by_key(1.0)
      ({'first': (1.0, 2.0)}, {'0': 1.0, '1': [2.0]}, {})
    """
    if isinstance(node, Mapping):
        return node
    return {jax.tree_util.keystr(path, simple=True): part for path, part in _parts(node)[0] if path}


def probe_of(node: object) -> Probe | None:
    """Return the probe that a layer's parameters carry, or None.

    Examples:
      >>> probe_of({"kernel": 1.0}), probe_of(carrying((1.0, 2.0), "probe"))
      (None, 'probe')
    """
    return node.get(PROBE) if isinstance(node, Mapping) else getattr(node, PROBE, None)


def carrying(node: object, probe: object) -> Any:
    """Return a copy of a layer's parameters that carries a probe, and is otherwise used as they are.

    Args:
      node: a mapping, a tuple, a list, or an instance of a dataclass that JAX knows.
      probe: the probe to carry; it is one more part of the node for JAX.

    Raises:
      TypeError: for a leaf, and for instances of a class that cannot be derived from.

    Examples:
      >>> kernel, bias = carrying((1.0, 2.0), 3.0)
      >>> kernel, bias, jax.tree.leaves(carrying((1.0, 2.0), 3.0))
      (1.0, 2.0, [1.0, 2.0, 3.0])
    """
    if isinstance(node, Mapping):
        return {**node, PROBE: probe}
    try:
        twin = _as_instance(node, _carrier(type(node)))
        object.__setattr__(twin, PROBE, probe)
    except (TypeError, ValueError, AttributeError) as error:
        raise TypeError(
            f"The parameters of a layer are of the class {type(node).__name__}, which can carry no probe ({error}). "
            f"Give a layer's parameters as a dictionary, a tuple, a list or a dataclass."
        ) from error
    return twin


def without_probe(node: object) -> Any:
    """Return a node as it was before it carried a probe; a mapping without its entry.

    Examples:
      >>> (
      ...     without_probe(carrying((1.0, 2.0), 3.0)),
      ...     without_probe({"kernel": 1.0, "_kfac": 2.0}),
      ... )
      ((1.0, 2.0), {'kernel': 1.0})
    """
    if isinstance(node, Mapping):
        return {key: part for key, part in node.items() if key != PROBE}
    if not hasattr(node, PROBE):
        return node
    plain = _as_instance(node, type(node).__mro__[1])
    if PROBE in getattr(plain, "__dict__", {}):
        object.__delattr__(plain, PROBE)
    return plain


def with_parts(node: object, parts: Mapping[Any, Any]) -> Any:
    """Return a node with other parts.

    Examples:
      >>> with_parts([1.0, 2.0], {"0": 3.0, "1": 4.0})
      [3.0, 4.0]
    """
    return dict(parts) if isinstance(node, Mapping) else _parts(node)[1].unflatten(parts.values())


def _parts(node: object) -> tuple[Any, Any]:
    return jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)


def _as_instance(node: object, cls: type) -> Any:
    """Return a copy of a node as an instance of its class's subclass or base."""
    if isinstance(node, tuple):
        return tuple.__new__(cls, node)
    if isinstance(node, list):
        return cls(node)
    twin = copy.copy(node)
    object.__setattr__(twin, "__class__", cls)
    return twin


@functools.cache
def _carrier(cls: type) -> type:
    """Return a subclass whose instances are nodes of a tree with a probe as their last part."""
    carrier = type(f"{cls.__name__}WithProbe", (cls,), {})

    def flatten(node: object) -> tuple[Any, Any]:
        parts, treedef = _parts(without_probe(node))
        probe = (jax.tree_util.GetAttrKey(PROBE), getattr(node, PROBE))
        return [*((path[0], part) for path, part in parts), probe], treedef

    def unflatten(treedef: Any, parts: Iterable[Any]) -> object:
        *own, probe = parts
        return carrying(treedef.unflatten(own), probe)

    jax.tree_util.register_pytree_with_keys(carrier, flatten, unflatten)
    return carrier

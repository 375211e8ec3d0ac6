"""Tell where the arrays of a state stand: in stacks of blocks, beside one parameter, or for all parameters."""

import re
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from precond.blocks import leaves_of
from precond.linalg import FixedPoint
from precond.trees import Tree

__all__ = ["AVERAGED", "Stacked", "beside", "named_leaves", "on_host", "places_in", "stacks_in"]

AVERAGED = frozenset({"ema", "momentum", "mu", "nu", "statistics", "trace"})
"""The fields that hold averages of gradients, of their squares, or of their products."""

_BY_ENTRY = AVERAGED - {"statistics"}  # the fields with a number for each entry
_IN_OTHER_UNITS = {"roots", "statistics", "host"}  # numbers in a basis, or of a factor


class Stacked(NamedTuple):
    """Say in which stack an array of a state stands.

    Attributes:
      prefix: the name of the `precond.blocks.StackedState` that has the stack.
      stack: the name of the stack.
      place: the name of the array, without that of the stack.
      by_entry: whether it has a number for each entry of the parameters, which can be cut in another way. A momentum
        that roots multiply, with no graft around, is not counted: with roots that start again it would move too far.
    """

    prefix: str
    stack: str
    place: str
    by_entry: bool


def named_leaves(tree: Tree) -> dict[str, Any]:
    """Return the leaves of a state by name; the names are those of a checkpoint of it in plain dictionaries.

    The level that `precond.engine.entries_in_16_bits` puts around a state is left out, and numbers in fixed point are
    widened. So a momentum has the same name in 16 bits and in float32.

    Args:
      tree: a state, or what became of one.

    Examples:
      >>> import optax
      >>> list(named_leaves(optax.adam(1e-3).init({"kernel": jnp.ones(2)})))
      ['0/count', '0/mu/kernel', '0/nu/kernel']
    """
    found = {f"/{name}".replace("/in_16_bits/", "/")[1:]: x for name, x in leaves_of(tree).items()}
    leaves: dict[str, Any] = {}
    for name, x in found.items():
        whole, _, field = name.rpartition("/")
        if field == "integers" and f"{whole}/scales" in found and jnp.issubdtype(jnp.result_type(x), jnp.integer):
            leaves[whole] = _widened(FixedPoint(x, found[f"{whole}/scales"]))
        elif not (field == "scales" and whole in leaves):
            leaves[name] = x
    return leaves


def _widened(x: FixedPoint) -> Any:
    if isinstance(x.integers, jax.ShapeDtypeStruct):
        return jax.eval_shape(FixedPoint.numbers, x)
    return _numbers(x)


_numbers = jax.jit(FixedPoint.numbers)  # which also takes arrays of which each process has a part


def on_host(x: Any) -> Any:
    """Return an array as numbers of the host, also where each process has a part of it; keys stay as they are.

    Args:
      x: an array.

    Examples:
      >>> on_host(np.ones(2)).tolist()
      [1.0, 1.0]
    """
    if isinstance(x, jax.Array):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return x
        if not (x.is_fully_addressable or x.is_fully_replicated) and isinstance(x.sharding, NamedSharding):
            x = jax.jit(lambda a: a, out_shardings=NamedSharding(x.sharding.mesh, PartitionSpec()))(x)
    return np.asarray(x)


def stacks_in(leaves: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """Return whose the blocks of every stack are, by the prefix of their state and the name of the stack.

    Args:
      leaves: the leaves of a state, by name.

    Raises:
      ValueError: for the state of several models, as `jax.vmap` makes it.

    Examples:
      >>> stacks_in(
      ...     {
      ...         "0/fingerprint": 3,
      ...         "0/block_ids/2x2": np.ones((1, 5), np.int32),
      ...         "0/stacks/ema/2x2": 1,
      ...     }
      ... )["0/"]
      {'2x2': array([[1, 1, 1, 1, 1]], dtype=int32)}
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, x in leaves.items():
        match = re.fullmatch(r"((?:.*/)?)block_ids/([^/]+)", name)
        if match is None or match[1] + "fingerprint" not in leaves:
            continue
        if np.ndim(x) != 2:
            raise ValueError(
                f"'{name}' has {np.ndim(x)} axes: this is the state of several models. Take one of them first: "
                f"jax.tree.map(lambda x: x[0], state)."
            )
        found.setdefault(match[1], {})[match[2]] = on_host(x)
    return found


def places_in(leaves: dict[str, Any]) -> dict[str, Stacked]:
    """Return in which stack each array stands; those that are not in one are left out.

    Args:
      leaves: the leaves of a state, by name.

    Examples:
      >>> places_in(
      ...     {
      ...         "0/fingerprint": 3,
      ...         "0/block_ids/2x2": np.ones((1, 5)),
      ...         "0/stacks/ema/2x2": np.ones((1, 2, 2)),
      ...     }
      ... )
      {'0/stacks/ema/2x2': Stacked(prefix='0/', stack='2x2', place='0/stacks/ema', by_entry=True)}
    """
    stacks = stacks_in(leaves)
    multiplied = tuple({f"{name.partition('/roots/')[0]}/momentum/" for name in leaves if "/roots/" in name})
    found = {name: _stacked_at(name, np.shape(x), stacks, multiplied) for name, x in leaves.items()}
    return {name: at for name, at in found.items() if at is not None}


def _stacked_at(
    name: str, shape: tuple[int, ...], stacks: dict[str, dict[str, np.ndarray]], multiplied: tuple[str, ...]
) -> Stacked | None:
    for prefix, block_ids in stacks.items():
        if not name.startswith(f"{prefix}stacks/"):
            continue
        parts = name.removeprefix(f"{prefix}stacks/").split("/")
        fits = [part for part in parts if part in block_ids and shape[:1] == (len(block_ids[part]),)]
        if fits:
            stack = max(fits, key=len)  # a number may be a place in a tuple
            at = parts.index(stack)
            rest = parts[:at] + parts[at + 1 :]
            block = tuple(int(side.strip("()")) for side in stack.split("x"))
            by_entry = shape[1:] == block and rest[-1] in _BY_ENTRY and _IN_OTHER_UNITS.isdisjoint(rest)
            by_entry = by_entry and not name.startswith(multiplied)
            return Stacked(prefix, stack, "/".join([f"{prefix}stacks", *rest]), by_entry)
    return None


def beside(name: str, paths: Collection[str]) -> tuple[str, str] | None:
    """Split the name of an array that belongs to one parameter, as the moments of Optax's Adam do.

    Args:
      name: the name of the array.
      paths: the paths of all parameters; the longest that fits is taken.

    Returns:
      The parameter's path and the rest of the name, or None if the name ends with no path.

    Examples:
      >>> (
      ...     beside("0/mu/dense/kernel", ["kernel", "dense/kernel"]),
      ...     beside("0/count", ["kernel"]),
      ... )
      (('dense/kernel', '0/mu'), None)
    """
    fits = [path for path in paths if path and f"/{name}".endswith(f"/{path}")]
    if not fits and (window := re.fullmatch(r"(.*/|)window/(.+)", name)):  # of gradients that are stored in parts
        fits = [path for path in paths if path and window[2].startswith(f"{path}/")]
        path = max(fits, key=len, default="")
        return (path, f"{window[1]}window{window[2].removeprefix(path)}") if path else None
    if not fits:
        alone = "" in paths and name.rpartition("/")[2] in _BY_ENTRY  # parameters that are one array have no path
        return ("", name) if alone else None
    path = max(fits, key=len)
    return path, name[: -len(path)].rstrip("/")

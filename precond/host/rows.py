"""Copy stacks to the host and back; each process copies the rows that its own devices have."""

import functools
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

__all__ = ["Leaving", "arrived", "leave", "put"]

Rows = dict[int, Any]
"""From the first row of a piece of a stack to the piece: a tree of arrays `[rows, ..]`."""


def _by_rows(x: jax.Array) -> Any:
    """Return the sharding of an array, with all axes but the leading one whole."""
    kept = x.sharding
    if not isinstance(kept, NamedSharding):
        return kept
    return NamedSharding(kept.mesh, PartitionSpec(*kept.spec[:1]), memory_kind=kept.memory_kind)


class Leaving:
    """Hold a tree of stacks on its way to the host.

    They are copies, since the arrays that were copied may be donated to the next step.

    Attributes:
      rows: the number of rows of each piece that this process has, by the first row of the piece.
    """

    def __init__(self, shards: list[dict[int, jax.Array]], treedef: Any) -> None:
        self._shards, self._treedef = shards, treedef
        self._there: Rows = {}
        self._lock = threading.Lock()
        self.rows = {start: shards[0][start].shape[0] for start in sorted(shards[0])}

    def piece(self, start: int) -> Any:
        """Wait for the piece that begins at a row, free it on the device, and return it as numpy's arrays."""
        with self._lock:
            if start not in self._there:
                arrays = [np.array(shards.pop(start)) for shards in self._shards]
                self._there[start] = self._treedef.unflatten(arrays)
            return self._there[start]


def leave(tree: Any) -> Leaving:
    """Start to copy to the host, and wait for nothing.

    Args:
      tree: a tree of arrays with equal first axes; the first array says how all are sharded along it.

    Examples:
      >>> leave({"a": jnp.arange(3)}).piece(0)
      {'a': array([0, 1, 2], dtype=int32)}
    """
    leaves, treedef = jax.tree.flatten(tree)
    copies = _copier(_by_rows(leaves[0]))(leaves)
    shards = [{s.index[0].start or 0: s.data for s in x.addressable_shards} for x in copies]
    for pieces in shards:
        for piece in pieces.values():
            piece.copy_to_host_async()
    return Leaving(shards, treedef)


@functools.cache
def _copier(sharding: Any) -> Any:
    return jax.jit(lambda leaves: [jnp.copy(x) for x in leaves], out_shardings=sharding)


def put(like: jax.Array, rows: dict[int, np.ndarray]) -> jax.Array:
    """Put an array into the shape, dtype and sharding of another.

    Args:
      like: the other array.
      rows: the pieces, by their first row, that devices of this process need. A float beyond the range of the dtype
        becomes the largest that it has.

    Examples:
      >>> put(jnp.zeros(3), {0: np.asarray([1e300, 2.0]), 2: np.asarray([3.0])}).tolist()
      [3.4028234663852886e+38, 2.0, 3.0]
    """

    def cast(x: np.ndarray) -> np.ndarray:
        if jnp.issubdtype(like.dtype, jnp.floating):
            top = float(jnp.finfo(like.dtype).max)
            x = np.clip(x, -top, top)
        return x.astype(like.dtype)

    def part(index: Any) -> np.ndarray:
        if not like.ndim:
            return cast(rows[0])
        first, last, _ = index[0].indices(like.shape[0])
        found = [cast(x[max(first - start, 0) : last - start]) for start, x in sorted(rows.items()) if start < last]
        return np.concatenate(found)[(slice(None), *index[1:])]

    if not like.committed:  # what is committed to a device is another type to jit, which would compile once more
        return jnp.asarray(part((slice(None),) * like.ndim))
    return jax.make_array_from_callback(like.shape, like.sharding, part)


def arrived(like: Any, rows: Rows) -> Any:
    """Do `put` for a tree of arrays, given pieces of the whole tree."""
    leaves, treedef = jax.tree.flatten(like)
    pieces = {start: treedef.flatten_up_to(tree) for start, tree in rows.items()}
    out = [put(x, {start: piece[i] for start, piece in pieces.items()}) for i, x in enumerate(leaves)]
    return treedef.unflatten(out)

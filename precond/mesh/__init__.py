"""One mechanism on every mesh: a function of stacks runs on the shard that this device owns. Floor 1 of the library."""

from precond.mesh.born import born, warn_if_whole
from precond.mesh.collectives import collectives_over
from precond.mesh.local import as_typed, entering, local_arrays, typed_sharding
from precond.mesh.place import Extent, Place, find_place
from precond.mesh.sharded import ByCost, Sharded, as_sharded, by_cost, sharded
from precond.mesh.shards import on_shards

__all__ = [
    "ByCost",
    "Extent",
    "Place",
    "Sharded",
    "as_sharded",
    "as_typed",
    "born",
    "by_cost",
    "collectives_over",
    "entering",
    "find_place",
    "local_arrays",
    "on_shards",
    "sharded",
    "typed_sharding",
    "warn_if_whole",
]

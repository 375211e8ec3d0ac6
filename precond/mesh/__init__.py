"""Run a function of stacks on the shard that this device owns, on every mesh. This is floor 1 of the library."""

from precond.mesh.collectives_over import collectives_over
from precond.mesh.init_sharded import init_sharded, warn_if_whole
from precond.mesh.on_shards import on_shards
from precond.mesh.placement import (
    Placement,
    RowSharding,
    RowShardings,
    find_placement,
    in_boxes,
    refuse_other_mesh,
    without_mesh,
)
from precond.mesh.reshard import match_sharding, replicate, reshard_in, typed_sharding
from precond.mesh.sharded import ByCost, Sharded, as_sharded, by_cost, sharded

__all__ = [
    "ByCost",
    "Placement",
    "RowSharding",
    "RowShardings",
    "Sharded",
    "as_sharded",
    "by_cost",
    "collectives_over",
    "find_placement",
    "in_boxes",
    "init_sharded",
    "match_sharding",
    "on_shards",
    "refuse_other_mesh",
    "replicate",
    "reshard_in",
    "sharded",
    "typed_sharding",
    "warn_if_whole",
    "without_mesh",
]

"""From parameters to stacks, statistics, roots, and back: what every method runs in. Floor 3 of the library."""

from precond.engine.blocked import BlockedState, blocked
from precond.engine.by_layer import by_layer
from precond.engine.in_band import has_probes, in_band
from precond.engine.kronecker import KroneckerState, scale_by_kronecker
from precond.engine.measured import measured
from precond.engine.outside import Engine, OutsideState, describing
from precond.engine.per_block import per_block
from precond.engine.schedule import Refresh, every, on_host
from precond.engine.skip_nonfinite import SkipNonfiniteState, skip_nonfinite
from precond.engine.stacked import StackedState, stacked

__all__ = [
    "BlockedState",
    "Engine",
    "KroneckerState",
    "OutsideState",
    "Refresh",
    "SkipNonfiniteState",
    "StackedState",
    "blocked",
    "by_layer",
    "describing",
    "every",
    "has_probes",
    "in_band",
    "measured",
    "on_host",
    "per_block",
    "scale_by_kronecker",
    "skip_nonfinite",
    "stacked",
]

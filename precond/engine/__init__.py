"""Turn parameters into stacks, run statistics and roots on them, and turn them back. This is floor 3 of the library."""

from precond.engine.blocked import BlockedState, blocked
from precond.engine.entries_in_16_bits import EntriesIn16BitsState, entries_in_16_bits
from precond.engine.host_state import EngineDescription, HostState, describing
from precond.engine.per_block import per_block
from precond.engine.refresh_schedule import RefreshSchedule, as_schedule, every, on_host
from precond.engine.scale_by_kronecker import KroneckerState, scale_by_kronecker
from precond.engine.skip_nonfinite import SKIPPED, SkipNonfiniteState, check_skipped, skip_nonfinite
from precond.engine.stacked import stacked, viewed_by

__all__ = [
    "SKIPPED",
    "BlockedState",
    "EngineDescription",
    "EntriesIn16BitsState",
    "HostState",
    "KroneckerState",
    "RefreshSchedule",
    "SkipNonfiniteState",
    "as_schedule",
    "blocked",
    "check_skipped",
    "describing",
    "entries_in_16_bits",
    "every",
    "on_host",
    "per_block",
    "scale_by_kronecker",
    "skip_nonfinite",
    "stacked",
    "viewed_by",
]

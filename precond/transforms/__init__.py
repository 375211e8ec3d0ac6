"""Optax transformations: the engine and what runs around it. Floor 3 of the library."""

from precond.transforms.accumulate import AccumulateState, accumulate
from precond.transforms.adascale import AdascaleState, done, scale_by_adascale
from precond.transforms.blocked import BlockedState, blocked
from precond.transforms.clip import clip_by_rms
from precond.transforms.diagonal import scale_by_diagonal
from precond.transforms.differenced import DifferencedState, differenced
from precond.transforms.filtered import filtered
from precond.transforms.gain import GainEstimator, adaptdl_gain, fairscale_gain, paper_gain
from precond.transforms.graft import graft
from precond.transforms.kronecker import scale_by_kronecker
from precond.transforms.normalize import normalize
from precond.transforms.per_block import per_block
from precond.transforms.schedule import Refresh, every
from precond.transforms.switch import switch
from precond.transforms.with_momentum import with_momentum

__all__ = [
    "AccumulateState",
    "AdascaleState",
    "BlockedState",
    "DifferencedState",
    "GainEstimator",
    "Refresh",
    "accumulate",
    "adaptdl_gain",
    "blocked",
    "clip_by_rms",
    "differenced",
    "done",
    "every",
    "fairscale_gain",
    "filtered",
    "graft",
    "normalize",
    "paper_gain",
    "per_block",
    "scale_by_adascale",
    "scale_by_diagonal",
    "scale_by_kronecker",
    "switch",
    "with_momentum",
]

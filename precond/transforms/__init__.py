"""Optax transformations: the engine and what runs around it. Floor 3 of the library."""

from precond.transforms.blocked import BlockedState, blocked
from precond.transforms.clip import clip_by_rms
from precond.transforms.clip_by_kl import clip_by_kl
from precond.transforms.diagonal import scale_by_diagonal
from precond.transforms.filtered import filtered
from precond.transforms.graft import graft
from precond.transforms.kfac import scale_by_kfac
from precond.transforms.kronecker import scale_by_kronecker
from precond.transforms.layered import layered
from precond.transforms.normalize import normalize
from precond.transforms.per_block import per_block
from precond.transforms.schedule import Refresh, every
from precond.transforms.switch import switch
from precond.transforms.with_momentum import with_momentum

__all__ = [
    "BlockedState",
    "Refresh",
    "blocked",
    "clip_by_kl",
    "clip_by_rms",
    "every",
    "filtered",
    "graft",
    "layered",
    "normalize",
    "per_block",
    "scale_by_diagonal",
    "scale_by_kfac",
    "scale_by_kronecker",
    "switch",
    "with_momentum",
]

"""Optax transformations: the engine and what runs around it. Floor 3 of the library."""

from precond.transforms.blocked import BlockedState, blocked
from precond.transforms.clip import clip_by_rms
from precond.transforms.convexify import convexify
from precond.transforms.diagonal import scale_by_diagonal
from precond.transforms.displaced import Displacement, eval_params
from precond.transforms.filtered import filtered
from precond.transforms.finite_steps import finite_steps
from precond.transforms.graft import graft
from precond.transforms.kronecker import scale_by_kronecker
from precond.transforms.mfac import scale_by_mfac
from precond.transforms.neumann import growing_momentum, scale_by_neumann
from precond.transforms.neumann_series import scale_by_neumann_series
from precond.transforms.normalize import normalize
from precond.transforms.per_block import per_block
from precond.transforms.schedule import Refresh, every
from precond.transforms.switch import switch
from precond.transforms.with_momentum import with_momentum

__all__ = [
    "BlockedState",
    "Displacement",
    "Refresh",
    "blocked",
    "clip_by_rms",
    "convexify",
    "eval_params",
    "every",
    "filtered",
    "finite_steps",
    "graft",
    "growing_momentum",
    "normalize",
    "per_block",
    "scale_by_diagonal",
    "scale_by_kronecker",
    "scale_by_mfac",
    "scale_by_neumann",
    "scale_by_neumann_series",
    "switch",
    "with_momentum",
]

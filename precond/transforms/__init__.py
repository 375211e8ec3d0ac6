"""Optax transformations: the engine and what runs around it. Floor 3 of the library."""

from precond.transforms.accumulate import AccumulateState, accumulate
from precond.transforms.adascale import AdascaleState, done, scale_by_adascale
from precond.transforms.blocked import BlockedState, blocked
from precond.transforms.clip import clip_by_rms
from precond.transforms.clip_by_kl import clip_by_kl
from precond.transforms.convexify import convexify
from precond.transforms.diagonal import scale_by_diagonal
from precond.transforms.differenced import DifferencedState, differenced
from precond.transforms.displaced import Displacement, eval_params
from precond.transforms.error_feedback import block_top_k, error_feedback
from precond.transforms.exponentiated import cosine, exponentiated, inner_product
from precond.transforms.extrapolated import extrapolated
from precond.transforms.filtered import filtered
from precond.transforms.finite_steps import finite_steps
from precond.transforms.gain import GainEstimator, adaptdl_gain, fairscale_gain, paper_gain
from precond.transforms.graft import graft
from precond.transforms.kfac import scale_by_kfac
from precond.transforms.kronecker import scale_by_kronecker
from precond.transforms.layered import layered
from precond.transforms.mfac import scale_by_mfac
from precond.transforms.neumann import growing_momentum, scale_by_neumann
from precond.transforms.neumann_series import scale_by_neumann_series
from precond.transforms.nlcg import fletcher_reeves, polak_ribiere, scale_by_nlcg
from precond.transforms.normalize import normalize
from precond.transforms.per_block import per_block
from precond.transforms.project_radial import project_radial
from precond.transforms.schedule import Refresh, every
from precond.transforms.switch import switch
from precond.transforms.with_momentum import with_momentum

__all__ = [
    "AccumulateState",
    "AdascaleState",
    "BlockedState",
    "DifferencedState",
    "Displacement",
    "GainEstimator",
    "Refresh",
    "accumulate",
    "adaptdl_gain",
    "block_top_k",
    "blocked",
    "clip_by_kl",
    "clip_by_rms",
    "convexify",
    "cosine",
    "differenced",
    "done",
    "error_feedback",
    "eval_params",
    "every",
    "exponentiated",
    "extrapolated",
    "fairscale_gain",
    "filtered",
    "finite_steps",
    "fletcher_reeves",
    "graft",
    "growing_momentum",
    "inner_product",
    "layered",
    "normalize",
    "paper_gain",
    "per_block",
    "polak_ribiere",
    "project_radial",
    "scale_by_adascale",
    "scale_by_diagonal",
    "scale_by_kfac",
    "scale_by_kronecker",
    "scale_by_mfac",
    "scale_by_neumann",
    "scale_by_neumann_series",
    "scale_by_nlcg",
    "switch",
    "with_momentum",
]

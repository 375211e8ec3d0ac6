"""Transform updates in and around the engine, without importing it. This is floor 3 of the library."""

from precond.transforms.block_top_k import block_top_k
from precond.transforms.cautious import cautious
from precond.transforms.clip_by_kl import clip_by_kl
from precond.transforms.clip_by_rms import clip_by_rms
from precond.transforms.error_feedback import error_feedback
from precond.transforms.finite_steps import FiniteStepsState, finite_steps
from precond.transforms.graft import graft
from precond.transforms.hyperball import hyperball
from precond.transforms.levenberg_marquardt import levenberg_marquardt
from precond.transforms.lookahead_ema import lookahead_ema
from precond.transforms.low_rank import low_rank, low_rank_rows
from precond.transforms.nesterov import nesterov
from precond.transforms.normalize import normalize
from precond.transforms.normalize_neurons import normalize_neurons
from precond.transforms.orthogonalize import OrthogonalizeState, orthogonalize
from precond.transforms.quadratic_model import quadratic_model
from precond.transforms.rows import Rows, sparse_rows
from precond.transforms.scale_by_diagonal import scale_by_diagonal
from precond.transforms.scale_by_mean_square import scale_by_mean_square
from precond.transforms.scale_by_mfac import scale_by_mfac
from precond.transforms.scale_by_sketch import SketchState, scale_by_sketch
from precond.transforms.stochastic_rounding import stochastic_rounding
from precond.transforms.switch import switch
from precond.transforms.with_momentum import with_momentum
from precond.transforms.with_stochastic_rounding import with_stochastic_rounding

__all__ = [
    "FiniteStepsState",
    "OrthogonalizeState",
    "Rows",
    "SketchState",
    "block_top_k",
    "cautious",
    "clip_by_kl",
    "clip_by_rms",
    "error_feedback",
    "finite_steps",
    "graft",
    "hyperball",
    "levenberg_marquardt",
    "lookahead_ema",
    "low_rank",
    "low_rank_rows",
    "nesterov",
    "normalize",
    "normalize_neurons",
    "orthogonalize",
    "quadratic_model",
    "scale_by_diagonal",
    "scale_by_mean_square",
    "scale_by_mfac",
    "scale_by_sketch",
    "sparse_rows",
    "stochastic_rounding",
    "switch",
    "with_momentum",
    "with_stochastic_rounding",
]

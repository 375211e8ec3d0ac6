"""Train with large batches: by AdaScale, accumulation, or the Neumann optimizer. This is floor 3 of the library."""

from precond.large_batches.accumulate import AccumulateState, accumulate
from precond.large_batches.convexify import convexify
from precond.large_batches.differenced import DifferencedState, differenced
from precond.large_batches.eval_params import Displacement, eval_params
from precond.large_batches.gain import GainEstimator, adaptdl_gain, fairscale_gain, paper_gain
from precond.large_batches.goodput import best_scale, gain_at
from precond.large_batches.rules import legw_rule, linear_rule, square_root_rule
from precond.large_batches.scale_by_adascale import AdascaleState, done, scale_by_adascale
from precond.large_batches.scale_by_neumann import growing_momentum, scale_by_neumann

__all__ = [
    "AccumulateState",
    "AdascaleState",
    "DifferencedState",
    "Displacement",
    "GainEstimator",
    "accumulate",
    "adaptdl_gain",
    "best_scale",
    "convexify",
    "differenced",
    "done",
    "eval_params",
    "fairscale_gain",
    "gain_at",
    "growing_momentum",
    "legw_rule",
    "linear_rule",
    "paper_gain",
    "scale_by_adascale",
    "scale_by_neumann",
    "square_root_rule",
]

"""Tell what a run will cost before it begins. This is floor 4 of the library."""

from precond.planning.dense_layers import DenseLayers, dense_layers
from precond.planning.divided import divided
from precond.planning.plan import plan
from precond.planning.presets import gpt, llama, moe, vit
from precond.planning.report import Plan, Stack, Work
from precond.planning.state_shardings import state_shardings
from precond.planning.views_of import Readings, views_of

__all__ = [
    "DenseLayers",
    "Plan",
    "Readings",
    "Stack",
    "Work",
    "dense_layers",
    "divided",
    "gpt",
    "llama",
    "moe",
    "plan",
    "state_shardings",
    "views_of",
    "vit",
]

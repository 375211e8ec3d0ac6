"""Estimate curvature by Optax transformations from stacks of gradients to factors. This is floor 2 of the library."""

from precond.statistics.activations import ActivationsState, activations
from precond.statistics.balance import balance
from precond.statistics.kl import kl
from precond.statistics.outer_products import outer_products
from precond.statistics.scale_by_trace import scale_by_trace
from precond.statistics.statistic import Statistic, StatisticUpdate, TermOf, Whiten

__all__ = [
    "ActivationsState",
    "Statistic",
    "StatisticUpdate",
    "TermOf",
    "Whiten",
    "activations",
    "balance",
    "kl",
    "outer_products",
    "scale_by_trace",
]

"""Mean gradients, and how far apart those are that they are the mean of, however a batch is split. Floor 1."""

from precond.replicas.devices import over_devices
from precond.replicas.gradients import GradientFunction, gradients, over_groups, over_micro_batches
from precond.replicas.metric import adam_metric
from precond.replicas.statistics import (
    Metric,
    Replicas,
    merge,
    stacked,
    summed,
    whole_squares,
    wide_zeros,
)

__all__ = [
    "GradientFunction",
    "Metric",
    "Replicas",
    "adam_metric",
    "gradients",
    "merge",
    "over_devices",
    "over_groups",
    "over_micro_batches",
    "stacked",
    "summed",
    "whole_squares",
    "wide_zeros",
]

"""Compute mean gradients, and how far apart the single gradients are, however a batch is split. This is floor 1."""

from precond.replicas.adam_metric import adam_metric
from precond.replicas.gradients import GradientFunction, gradients, gradients_by, over_groups, over_micro_batches
from precond.replicas.over_devices import over_devices
from precond.replicas.replicas import (
    Metric,
    Replicas,
    Squares,
    merge,
    stacked,
    summed,
    whole_squares,
)
from precond.replicas.variance_tests import variance_tests

__all__ = [
    "GradientFunction",
    "Metric",
    "Replicas",
    "Squares",
    "adam_metric",
    "gradients",
    "gradients_by",
    "merge",
    "over_devices",
    "over_groups",
    "over_micro_batches",
    "stacked",
    "summed",
    "variance_tests",
    "whole_squares",
]

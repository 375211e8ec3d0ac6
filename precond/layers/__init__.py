"""Capture the inputs and cotangents of a model's layers as the factors of K-FAC. This is floor 3 of the library.

The front ends for Flax are the modules `precond.layers.linen` and `precond.layers.nnx`, which alone import it.
"""

import importlib
import types

from precond.blocks import Layer, LayerFactors, Probe
from precond.layers.assemble import LayerSpec
from precond.layers.capture import Capture
from precond.layers.coverage import Coverage, Row
from precond.layers.estimators import Estimator, empirical, exact, propagated, sampled
from precond.layers.explicit import explicit
from precond.layers.ggn_product import empirical_product, ggn_product
from precond.layers.gradient_errors import gradient_errors
from precond.layers.kinds import (
    Added,
    Contraction,
    Conv,
    Embed,
    Kind,
    Rows,
    Scale,
    Signals,
    dense,
    doubly_factored,
    einsum,
)
from precond.layers.likelihoods import Likelihood, bernoulli, categorical, gaussian, joint
from precond.layers.sharing import Sharing, expand, reduce
from precond.layers.tap import Tap, tap
from precond.layers.value_grad_factors import factors_alone, value_grad_factors
from precond.layers.with_fisher import with_fisher

__all__ = [
    "Added",
    "Capture",
    "Contraction",
    "Conv",
    "Coverage",
    "Embed",
    "Estimator",
    "Kind",
    "Layer",
    "LayerFactors",
    "LayerSpec",
    "Likelihood",
    "Probe",
    "Row",
    "Rows",
    "Scale",
    "Sharing",
    "Signals",
    "Tap",
    "bernoulli",
    "categorical",
    "dense",
    "doubly_factored",
    "einsum",
    "empirical",
    "empirical_product",
    "exact",
    "expand",
    "explicit",
    "factors_alone",
    "gaussian",
    "ggn_product",
    "gradient_errors",
    "joint",
    "propagated",
    "reduce",
    "sampled",
    "tap",
    "value_grad_factors",
    "with_fisher",
]


def __getattr__(name: str) -> types.ModuleType:
    """Import a front end when it is first used: Flax need not be there for the rest."""
    if name in ("linen", "nnx"):
        return importlib.import_module(f"precond.layers.{name}")
    raise AttributeError(f"module 'precond.layers' has no attribute '{name}'")

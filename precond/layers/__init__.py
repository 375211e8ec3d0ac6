"""What K-FAC needs from a model: its layers' inputs and cotangents, as factors. Floor 3 of the library.

The front ends for Flax are the modules `precond.layers.linen` and `precond.layers.nnx`, which import it.
"""

from precond.blocks import Factors, Layer, Probe
from precond.layers.capture import Capture, Found
from precond.layers.check import gradient_errors
from precond.layers.coverage import Coverage, Row
from precond.layers.explicit import explicit
from precond.layers.fisher import Estimator, Likelihood, bernoulli, categorical, empirical, exact, gaussian, sampled
from precond.layers.ggn import ggn_product
from precond.layers.gradients import factors_alone, value_grad_factors
from precond.layers.in_band import with_fisher
from precond.layers.kinds import (
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
from precond.layers.sharing import Sharing, expand, reduce
from precond.layers.tap import Tap, tap

__all__ = [
    "Capture",
    "Contraction",
    "Conv",
    "Coverage",
    "Embed",
    "Estimator",
    "Factors",
    "Found",
    "Kind",
    "Layer",
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
    "exact",
    "expand",
    "explicit",
    "factors_alone",
    "gaussian",
    "ggn_product",
    "gradient_errors",
    "reduce",
    "sampled",
    "tap",
    "value_grad_factors",
    "with_fisher",
]

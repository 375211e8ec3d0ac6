"""Choose how `precond.muon` orthogonalizes matrices and scales the result. This is floor 2 of the library."""

from precond.orthogonal.orthogonalizer import Orthogonalizer, block_periodic, newton_schulz, polar
from precond.orthogonal.polynomials import OddPolynomial, cubic, deepseek, dion, jordan, polar_express
from precond.orthogonal.rescaling import Rescaling, almost_orthogonal, schatten, spectral
from precond.orthogonal.scale import Scale, match_rms, unit_rms_norm, width

__all__ = [
    "OddPolynomial",
    "Orthogonalizer",
    "Rescaling",
    "Scale",
    "almost_orthogonal",
    "block_periodic",
    "cubic",
    "deepseek",
    "dion",
    "jordan",
    "match_rms",
    "newton_schulz",
    "polar",
    "polar_express",
    "schatten",
    "spectral",
    "unit_rms_norm",
    "width",
]

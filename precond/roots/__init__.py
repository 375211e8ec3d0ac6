"""Derive matrices from factors and apply them to gradients. This is floor 2 of the library."""

from precond.roots.averaged_eigenvalues import averaged_eigenvalues
from precond.roots.corrected_inverse import corrected_inverse
from precond.roots.damping import Damping, absolute, relative, trace_damping
from precond.roots.eigen_inverse import eigen_inverse
from precond.roots.eigenbasis import eigenbasis
from precond.roots.guard import Checked, Health, accept
from precond.roots.inverse import inverse
from precond.roots.inverse_root import inverse_root
from precond.roots.last_finite import last_finite
from precond.roots.methods import (
    Method,
    RootResult,
    by_platform,
    cholesky,
    cholesky_qr,
    composite,
    eigh,
    newton,
    qr,
    rotations,
)
from precond.roots.moment_rule import MomentRule, decayed_max, ema
from precond.roots.root import Axis, Padding, Power, Root, RootState, as_fraction, powers_of
from precond.roots.store_as import store_as
from precond.roots.transport import Transport, rotated, unchanged
from precond.roots.waiting import waiting

__all__ = [
    "Axis",
    "Checked",
    "Damping",
    "Health",
    "Method",
    "MomentRule",
    "Padding",
    "Power",
    "Root",
    "RootResult",
    "RootState",
    "Transport",
    "absolute",
    "accept",
    "as_fraction",
    "averaged_eigenvalues",
    "by_platform",
    "cholesky",
    "cholesky_qr",
    "composite",
    "corrected_inverse",
    "decayed_max",
    "eigen_inverse",
    "eigenbasis",
    "eigh",
    "ema",
    "inverse",
    "inverse_root",
    "last_finite",
    "newton",
    "powers_of",
    "qr",
    "relative",
    "rotated",
    "rotations",
    "store_as",
    "trace_damping",
    "unchanged",
    "waiting",
]

"""Compute roots and bases by algorithms that are values, one in each file."""

from precond.roots.methods.by_platform import by_platform
from precond.roots.methods.cholesky import cholesky
from precond.roots.methods.cholesky_qr import cholesky_qr
from precond.roots.methods.composite import composite
from precond.roots.methods.eigh import eigh
from precond.roots.methods.method import BasisOf, Method, Ridge, RootOf, RootResult
from precond.roots.methods.newton import newton
from precond.roots.methods.qr import qr
from precond.roots.methods.rotations import rotations

__all__ = [
    "BasisOf",
    "Method",
    "Ridge",
    "RootOf",
    "RootResult",
    "by_platform",
    "cholesky",
    "cholesky_qr",
    "composite",
    "eigh",
    "newton",
    "qr",
    "rotations",
]

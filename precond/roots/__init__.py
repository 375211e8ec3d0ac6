"""What is derived from the factors, and how it acts on a gradient. Floor 2 of the library."""

from precond.roots.damping import Damping, absolute, relative, trace
from precond.roots.eigenbasis import eigenbasis
from precond.roots.inverse_root import inverse_root
from precond.roots.method import Method, cholesky_qr, eigh, newton, qr, rotations
from precond.roots.root import Root, RootState

__all__ = [
    "Damping",
    "Method",
    "Root",
    "RootState",
    "absolute",
    "cholesky_qr",
    "eigenbasis",
    "eigh",
    "inverse_root",
    "newton",
    "qr",
    "relative",
    "rotations",
    "trace",
]

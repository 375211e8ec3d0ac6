"""What is derived from the factors, and how it acts on a gradient. Floor 2 of the library."""

from precond.roots.damping import Damping, absolute, relative, trace
from precond.roots.eigenbasis import eigenbasis
from precond.roots.inverse_root import inverse_root
from precond.roots.method import Method, eigh, newton, qr
from precond.roots.root import Root, RootState

__all__ = [
    "Damping",
    "Method",
    "Root",
    "RootState",
    "absolute",
    "eigenbasis",
    "eigh",
    "inverse_root",
    "newton",
    "qr",
    "relative",
    "trace",
]

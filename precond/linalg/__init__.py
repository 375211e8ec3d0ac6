"""Arrays in, arrays out: the dense kernels under every method. Floor 0 of the library; imports only JAX."""

from precond.linalg.averages import average, debias
from precond.linalg.eigh import eigen_basis, eigh_root
from precond.linalg.modes import gram, multiply, multiply_axis
from precond.linalg.newton import coupled_newton
from precond.linalg.norms import batch_norm, largest_eigenvalue
from precond.linalg.qr import qr_basis

__all__ = [
    "average",
    "batch_norm",
    "coupled_newton",
    "debias",
    "eigen_basis",
    "eigh_root",
    "gram",
    "largest_eigenvalue",
    "multiply",
    "multiply_axis",
    "qr_basis",
]

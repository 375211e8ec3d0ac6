"""Arrays in, arrays out: the dense kernels under every method. Floor 0 of the library; imports only JAX."""

from precond.linalg.averages import average
from precond.linalg.cholesky_inverse import cholesky_inverse
from precond.linalg.cholesky_qr import cholesky_qr_basis
from precond.linalg.composite import composite_root
from precond.linalg.eigh import eigen_basis, eigh_root
from precond.linalg.isometry import isometry_error
from precond.linalg.largest_eigenvalue import largest_eigenvalue
from precond.linalg.leading import leading_pair
from precond.linalg.minimax import minimax_step
from precond.linalg.modes import gram, multiply, multiply_axis
from precond.linalg.newton import coupled_newton
from precond.linalg.newton_schulz import block_newton_schulz, gram_newton_schulz, gram_pays
from precond.linalg.norms import batch_norm
from precond.linalg.polar import polar_factor
from precond.linalg.precision import Precision, computing_in, dot_precision, precision
from precond.linalg.qr import qr_basis
from precond.linalg.renew import continued_eigen_basis, renew_worst
from precond.linalg.residual import orthogonality_residual, root_residual
from precond.linalg.rotate import rotate_basis, scaled_off_diagonal
from precond.linalg.symmetric import Packed, dense, eye_like, packed, packed_gram

__all__ = [
    "Packed",
    "Precision",
    "average",
    "batch_norm",
    "block_newton_schulz",
    "cholesky_inverse",
    "cholesky_qr_basis",
    "composite_root",
    "computing_in",
    "continued_eigen_basis",
    "coupled_newton",
    "dense",
    "dot_precision",
    "eigen_basis",
    "eigh_root",
    "eye_like",
    "gram",
    "gram_newton_schulz",
    "gram_pays",
    "isometry_error",
    "largest_eigenvalue",
    "leading_pair",
    "minimax_step",
    "multiply",
    "multiply_axis",
    "orthogonality_residual",
    "packed",
    "packed_gram",
    "polar_factor",
    "precision",
    "qr_basis",
    "renew_worst",
    "root_residual",
    "rotate_basis",
    "scaled_off_diagonal",
]

"""Compute with dense arrays: the kernels of every method. This is floor 0, and it imports only JAX and NumPy."""

from precond.linalg.average import average
from precond.linalg.batch_norm import batch_norm
from precond.linalg.cholesky_qr_basis import cholesky_qr_basis
from precond.linalg.closest_rank_one import closest_rank_one
from precond.linalg.composite_root import composite_root
from precond.linalg.coupled_newton import coupled_newton
from precond.linalg.eigen_basis import eigen_basis
from precond.linalg.eigh_root import eigh_root
from precond.linalg.fixed_point import FixedPoint, fixed_point
from precond.linalg.isometry_error import isometry_error
from precond.linalg.largest_eigenvalue import largest_eigenvalue
from precond.linalg.minimax_steps import minimax_step
from precond.linalg.multiply import gram, multiply, multiply_axis
from precond.linalg.newton_schulz import block_newton_schulz, gram_is_cheaper, gram_newton_schulz
from precond.linalg.packed import Factor, Packed, dense, eye_like, packed, packed_gram, trace
from precond.linalg.polar_factor import polar_factor
from precond.linalg.positive_inverse import positive_inverse, swept_inverse
from precond.linalg.precision import Precision, computed_in, computing_in, dot_precision, precision
from precond.linalg.qr_basis import first_basis, moved_columns, orthonormal_in_place, qr_basis, scaled_eigenvectors
from precond.linalg.redecompose_worst import continued_eigen_basis, redecompose_worst
from precond.linalg.root_residual import orthogonality_residual, root_residual
from precond.linalg.rotate_basis import rotate_basis, scaled_off_diagonal
from precond.linalg.round_stochastically import round_stochastically
from precond.linalg.row_major import row_major
from precond.linalg.sketch import Sketch, empty_sketch, sketch_power, sketched
from precond.linalg.take_columns import take_columns

__all__ = [
    "Factor",
    "FixedPoint",
    "Packed",
    "Precision",
    "Sketch",
    "average",
    "batch_norm",
    "block_newton_schulz",
    "cholesky_qr_basis",
    "closest_rank_one",
    "composite_root",
    "computed_in",
    "computing_in",
    "continued_eigen_basis",
    "coupled_newton",
    "dense",
    "dot_precision",
    "eigen_basis",
    "eigh_root",
    "empty_sketch",
    "eye_like",
    "first_basis",
    "fixed_point",
    "gram",
    "gram_is_cheaper",
    "gram_newton_schulz",
    "isometry_error",
    "largest_eigenvalue",
    "minimax_step",
    "moved_columns",
    "multiply",
    "multiply_axis",
    "orthogonality_residual",
    "orthonormal_in_place",
    "packed",
    "packed_gram",
    "polar_factor",
    "positive_inverse",
    "precision",
    "qr_basis",
    "redecompose_worst",
    "root_residual",
    "rotate_basis",
    "round_stochastically",
    "row_major",
    "scaled_eigenvectors",
    "scaled_off_diagonal",
    "sketch_power",
    "sketched",
    "swept_inverse",
    "take_columns",
    "trace",
]

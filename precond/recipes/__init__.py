"""Follow the reference implementations, spelled out in parts of this library. This is floor 4 of the library.

Each function takes the reference's own hyperparameters and returns the chain that follows it step by step; read its
body for which part is which. For training, use the aliases.
"""

from precond.recipes.google_roots import google_eigh, google_newton
from precond.recipes.google_shampoo import google_shampoo
from precond.recipes.google_tearfree import google_tearfree
from precond.recipes.meta import meta_shampoo, meta_soap
from precond.recipes.meta_bases import meta_eigh_basis, meta_qr_basis
from precond.recipes.meta_descent import meta_descent, meta_svd
from precond.recipes.meta_eigendecomposed import meta_eigendecomposed
from precond.recipes.meta_roots import meta_eigh, meta_higher_order, meta_newton, meta_pseudo_inverse
from precond.recipes.nvidia_kl_soap import nvidia_eigh, nvidia_kl_soap, nvidia_orthogonal_iteration
from precond.recipes.nvidia_muon import nvidia_coefficients, nvidia_muon, nvidia_normuon
from precond.recipes.official_soap import official_soap
from precond.recipes.primal_averaging import AveragingState, averaged_params, primal_averaging

__all__ = [
    "AveragingState",
    "averaged_params",
    "google_eigh",
    "google_newton",
    "google_shampoo",
    "google_tearfree",
    "meta_descent",
    "meta_eigendecomposed",
    "meta_eigh",
    "meta_eigh_basis",
    "meta_higher_order",
    "meta_newton",
    "meta_pseudo_inverse",
    "meta_qr_basis",
    "meta_shampoo",
    "meta_soap",
    "meta_svd",
    "nvidia_coefficients",
    "nvidia_eigh",
    "nvidia_kl_soap",
    "nvidia_muon",
    "nvidia_normuon",
    "nvidia_orthogonal_iteration",
    "official_soap",
    "primal_averaging",
]

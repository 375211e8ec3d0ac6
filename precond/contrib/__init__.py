"""Run methods that few people use, such as nonlinear conjugate gradients. This is floor 4 of the library."""

from precond.contrib.exponentiated import cosine, exponentiated, inner_product
from precond.contrib.extrapolated import extrapolated
from precond.contrib.project_radial import project_radial
from precond.contrib.scale_by_neumann_series import scale_by_neumann_series
from precond.contrib.scale_by_nlcg import fletcher_reeves, polak_ribiere, scale_by_nlcg

__all__ = [
    "cosine",
    "exponentiated",
    "extrapolated",
    "fletcher_reeves",
    "inner_product",
    "polak_ribiere",
    "project_radial",
    "scale_by_neumann_series",
    "scale_by_nlcg",
]

"""Second-order and large-batch optimizers for JAX and Optax, whose parts chain."""

from precond import recipes
from precond.arguments import STATIC_ARGS
from precond.blocks import View, default_views, rules, small_side, tensors
from precond.optimizers import kl_shampoo, shampoo, soap
from precond.roots import (
    Method,
    Root,
    RootState,
    absolute,
    eigenbasis,
    eigh,
    inverse_root,
    newton,
    qr,
    relative,
    trace,
)
from precond.statistics import kl, outer_products, scale_by_trace
from precond.transforms import (
    Refresh,
    blocked,
    clip_by_rms,
    every,
    filtered,
    graft,
    normalize,
    scale_by_diagonal,
    scale_by_kronecker,
    switch,
    with_momentum,
)

__all__ = [
    "STATIC_ARGS",
    "Method",
    "Refresh",
    "Root",
    "RootState",
    "View",
    "absolute",
    "blocked",
    "clip_by_rms",
    "default_views",
    "eigenbasis",
    "eigh",
    "every",
    "filtered",
    "graft",
    "inverse_root",
    "kl",
    "kl_shampoo",
    "newton",
    "normalize",
    "outer_products",
    "qr",
    "recipes",
    "relative",
    "rules",
    "scale_by_diagonal",
    "scale_by_kronecker",
    "scale_by_trace",
    "shampoo",
    "small_side",
    "soap",
    "switch",
    "tensors",
    "trace",
    "with_momentum",
]

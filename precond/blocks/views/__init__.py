"""Choose views for all parameters of a library, or of a model."""

from precond.blocks.views.default_views import default_views
from precond.blocks.views.default_views import default_views as default
from precond.blocks.views.flax import flax
from precond.blocks.views.haiku import haiku
from precond.blocks.views.layers import LayerViews, layers
from precond.blocks.views.maxtext import maxtext
from precond.blocks.views.named import batch_axes, named, names_of
from precond.blocks.views.pattern_views import PatternViews
from precond.blocks.views.rules import as_views, rules
from precond.blocks.views.stacked import stacked
from precond.blocks.views.tensors import small_side, tensors
from precond.blocks.views.torch import torch
from precond.blocks.views.torch import torch as equinox  # its layers have PyTorch's layouts

__all__ = [
    "LayerViews",
    "PatternViews",
    "as_views",
    "batch_axes",
    "default",
    "default_views",
    "equinox",
    "flax",
    "haiku",
    "layers",
    "maxtext",
    "named",
    "names_of",
    "rules",
    "small_side",
    "stacked",
    "tensors",
    "torch",
]

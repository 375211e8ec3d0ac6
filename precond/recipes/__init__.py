"""The reference implementations, spelled out in parts of this library. Floor 4.

Each function takes the reference's own hyperparameters and returns the chain that follows it step by step; read its
body for which part is which. For training, use the aliases.
"""

from precond.recipes.google import google_shampoo
from precond.recipes.meta import meta_shampoo, meta_soap
from precond.recipes.soap import official_soap

__all__ = ["google_shampoo", "meta_shampoo", "meta_soap", "official_soap"]

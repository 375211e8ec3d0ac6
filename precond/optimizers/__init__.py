"""Drop-in optimizers: assembly only. Floor 4 of the library."""

from precond.optimizers.kfac import kfac
from precond.optimizers.kl_shampoo import kl_shampoo
from precond.optimizers.shampoo import shampoo
from precond.optimizers.soap import soap

__all__ = ["kfac", "kl_shampoo", "shampoo", "soap"]

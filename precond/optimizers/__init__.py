"""Make drop-in optimizers by assembling parts. This is floor 4 of the library."""

from typing import Any

import jax.numpy as jnp

from precond.arguments import known_states
from precond.layers import dense, explicit
from precond.optimizers.adascale import adascale
from precond.optimizers.ekfac import ekfac
from precond.optimizers.kfac import kfac
from precond.optimizers.kl_shampoo import kl_shampoo, scale_by_kl_shampoo
from precond.optimizers.kl_soap import kl_soap, scale_by_kl_soap
from precond.optimizers.memory import Memory
from precond.optimizers.mfac import mfac
from precond.optimizers.muon import muon, scale_by_muon
from precond.optimizers.neumann import neumann
from precond.optimizers.scale_by_ekfac import scale_by_ekfac
from precond.optimizers.scale_by_kfac import scale_by_kfac
from precond.optimizers.shampoo import scale_by_shampoo, shampoo
from precond.optimizers.soap import scale_by_soap, soap


def _of_one_layer(optimizer: Any) -> Any:
    """Make one for the parameters `kernel` and `bias`, as all of `known_states` are."""
    return lambda: optimizer(1.0, explicit({"": dense()}, {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}).layers)


known_states |= {"precond.kfac": _of_one_layer(kfac), "precond.ekfac": _of_one_layer(ekfac)}

__all__ = [
    "Memory",
    "adascale",
    "ekfac",
    "kfac",
    "kl_shampoo",
    "kl_soap",
    "mfac",
    "muon",
    "neumann",
    "scale_by_ekfac",
    "scale_by_kfac",
    "scale_by_kl_shampoo",
    "scale_by_kl_soap",
    "scale_by_muon",
    "scale_by_shampoo",
    "scale_by_soap",
    "shampoo",
    "soap",
]

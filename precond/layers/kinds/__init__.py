"""Define the kinds of layers, one in each file: `Kind` is their interface, and a model may define a new one.

| kind | layers | factors |
|---|---|---|
| `Contraction` (`dense`, `einsum`) | Dense, DenseGeneral, Einsum | A with a one for the bias, and G |
| `Conv` | convolutions, transposed ones too | the same, of patches, by group |
| `Embed` | look-ups | the diagonal of A, and G |
| `Scale` | norms | the Fisher block of each channel |
| `Added` | position tables, free vectors | the Fisher diagonal, or a block for each row |
| `FeatureMap` (`doubly_factored`) | any with a full A | of positions, of channels, and G |
"""

from precond.layers.kinds.added import Added
from precond.layers.kinds.contraction import Contraction, dense, einsum
from precond.layers.kinds.conv import Conv
from precond.layers.kinds.doubly_factored import DoublyFactored, FeatureMap, doubly_factored, under_sharing
from precond.layers.kinds.embed import Embed
from precond.layers.kinds.kind import Kind, Rows, Signals
from precond.layers.kinds.scale import Scale

__all__ = [
    "Added",
    "Contraction",
    "Conv",
    "DoublyFactored",
    "Embed",
    "FeatureMap",
    "Kind",
    "Rows",
    "Scale",
    "Signals",
    "dense",
    "doubly_factored",
    "einsum",
    "under_sharing",
]

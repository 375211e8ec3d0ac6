"""Choose views for the layers of a capture, as K-FAC reads them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from precond.arguments import described
from precond.blocks.check_layers import check_layers
from precond.blocks.layer import Layer
from precond.blocks.parameter import as_parameter
from precond.blocks.view import View, Views

__all__ = ["LayerViews", "layers"]


@dataclasses.dataclass(frozen=True)
class LayerViews:
    """Hold the views of layers by the paths of their parameters; a parameter of no layer has no view."""

    kernels: Mapping[str, Layer]
    biases: Mapping[str, Layer]

    def __call__(self, path: str, leaf: Any) -> View | None:
        """Return the view of one parameter."""
        if path in self.kernels:
            return self.kernels[path].view(as_parameter(leaf).shape)
        return self.biases[path].bias_view(as_parameter(leaf).shape) if path in self.biases else None


@described()
def layers(layers: Mapping[str, Layer]) -> Views:
    """Return views that read every layer of a capture as K-FAC needs it: as one matrix `[inputs, outputs]`.

    A bias is the last row of the matrix. A parameter that belongs to no layer has no view. Use these views
    with `block_size=None` and `precond.by_layer`.

    Args:
      layers: `capture.layers`.

    Raises:
      TypeError: for anything but layers by name.

    Examples:
      >>> import jax.numpy as jnp
      >>> views = layers(
      ...     {"dense": Layer("dense/kernel", "dense/bias", 0, (2, 3), (), (0,), (1,))}
      ... )
      >>> views("dense/kernel", jnp.zeros((2, 3)))
      View(axes=((0,), (1,)), passive=(), shape=(2, 3), row='dense/bias')
    """
    check_layers(layers)
    kernels = {layer.kernel: layer for layer in layers.values()}
    return LayerViews(kernels, {layer.bias: layer for layer in layers.values() if layer.bias is not None})

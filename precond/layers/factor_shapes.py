"""The shapes of a layer's factors."""

from precond.blocks import Layer

__all__ = ["factor_shapes"]


def factor_shapes(layer: Layer) -> dict[str, tuple[int, ...]]:
    """Return the shape of each factor of one matrix of a layer, by the name of its sum.

    Args:
      layer: of a capture.

    Returns:
      `inputs`, in front of it `positions` if the inputs are maps, and `outputs` if the layer has outputs.

    Examples:
      >>> factor_shapes(Layer("kernel", "bias", 0, (6, 3), (), (0,), (1,)))
      {'inputs': (7, 7), 'outputs': (3, 3)}
      >>> factor_shapes(Layer("kernel", "bias", 0, (6, 3), (), (0,), (1,), positions=2))
      {'positions': (2, 2), 'inputs': (3, 3), 'outputs': (3, 3)}
    """
    *sides, outputs = layer.tensor
    names = ("positions", "inputs") if layer.positions is not None else ("inputs",)
    shapes = {name: (d,) if layer.diagonal else (d, d) for name, d in zip(names, sides, strict=True)}
    return shapes | ({"outputs": (outputs, outputs)} if layer.outputs else {})

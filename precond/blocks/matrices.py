"""The layers of which a tree has parameters, as matrices, and where these stand in stacks."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from precond.blocks.joint import Layer
from precond.blocks.layout import Layout, layout_of
from precond.blocks.view import View

__all__ = [
    "check_layers",
    "check_matrices",
    "join_layers",
    "layers_in_stacks",
    "layout_of_layers",
    "present_layers",
    "view_of_layer",
]


def check_layers(layers: Any) -> None:
    """Raise unless these are layers by name.

    Raises:
      TypeError: saying where they come from.

    Examples:
      >>> check_layers({"kernel": jnp.ones((2, 3))})
      Traceback (most recent call last):
      TypeError: layers= must be those of a capture, capture.layers, not a dict of ArrayImpl.
    """
    found = layers.values() if isinstance(layers, Mapping) else [layers]
    if wrong := [type(x).__name__ for x in found if not isinstance(x, Layer)]:
        which = f"a dict of {wrong[0]}" if isinstance(layers, Mapping) else f"of type {wrong[0]}"
        raise TypeError(f"layers= must be those of a capture, capture.layers, not {which}.")


def check_matrices(layers: Mapping[str, Layer]) -> None:
    """Raise for layers that are doubly factored: of these no second moments are captured.

    Args:
      layers: of a capture.

    Raises:
      ValueError: naming them.
      TypeError: as `check_layers`.

    Examples:
      >>> check_matrices({"": Layer("kernel", None, 0, (2, 3), (), (0,), (1,))})
    """
    check_layers(layers)
    maps = sorted(name for name, layer in layers.items() if layer.positions is not None)
    if maps:
        raise ValueError(
            f"layers= has doubly factored ones, {maps}, of which no second moments in a basis are captured: let them "
            "expand (sharing=precond.layers.expand), or use precond.kfac."
        )


def present_layers(layers: Mapping[str, Layer], leaves: Mapping[str, Any]) -> dict[str, Layer]:
    """The layers whose parameters are there; one whose bias is not has none.

    Args:
      layers: of a capture.
      leaves: parameters by path.

    Raises:
      ValueError: for a bias without its weights.

    Examples:
      >>> layers = {"": Layer("kernel", "bias", 0, (2, 3), (), (0,), (1,))}
      >>> present_layers(layers, {"kernel": jnp.ones((2, 3))})[""].bias is None
      True
    """
    found = {}
    for name, layer in layers.items():
        if layer.kernel in leaves:
            found[name] = layer if layer.bias in leaves else layer._replace(bias=None)
        elif layer.bias in leaves:
            raise ValueError(
                f"The bias of layer '{name}' is among the parameters, but its weights are not: they share one factor. "
                f"Mask both '{layer.kernel}' and '{layer.bias}', or the bias alone."
            )
    return found


def join_layers(layers: Mapping[str, Layer], leaves: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The matrices of each layer that is there, `[L, inputs, outputs]`, or its maps.

    Args:
      layers: of a capture.
      leaves: parameters by path, or gradients.

    Examples:
      >>> layers = {"": Layer("kernel", "bias", 0, (2, 3), (), (0,), (1,))}
      >>> join_layers(layers, {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})[""].shape
      (1, 3, 3)
    """
    out = {}
    for name, layer in present_layers(layers, leaves).items():
        bias = None if layer.bias is None else jnp.asarray(leaves[layer.bias])
        matrix = layer.matrix(jnp.asarray(leaves[layer.kernel]), bias)
        out[name] = matrix.reshape(len(matrix), *layer.tensor)
    return out


def view_of_layer(layer: Layer) -> View:
    """How its matrices are read: axes without a full factor are passive.

    Args:
      layer: any.

    Examples:
      >>> view_of_layer(Layer("embedding", None, 0, (9, 3), (), (0,), (1,), diagonal=True)).passive
      (0,)
    """
    axes = tuple(range(-len(layer.tensor), 0))
    return View(axes, passive=(0,) if layer.diagonal else () if layer.outputs else (1,))


def layout_of_layers(layers: Mapping[str, Layer], matrices: Mapping[str, Any], multiple: int = 1) -> Layout:
    """Of the matrices from `join_layers`, in stacks.

    Args:
      layers: of a capture.
      matrices: or their shapes.
      multiple: as in `precond.blocks.layout_of`.

    Examples:
      >>> layers = {"": Layer("kernel", None, 0, (2, 3), (), (0,), (1,))}
      >>> list(layout_of_layers(layers, {"": jnp.ones((1, 2, 3))}).stacks)
      ['2x3']
    """
    return layout_of(dict(matrices), lambda name, leaf: view_of_layer(layers[name]), None, multiple)


def layers_in_stacks(layout: Layout, names: list[str]) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Each stack with the layers in it, and how many matrices each has, in their order.

    Args:
      layout: from `layout_of_layers`.
      names: of the layers, sorted, as the leaves of their matrices are.

    Examples:
      >>> layers = {"": Layer("kernel", None, 0, (2, 3), (), (0,), (1,))}
      >>> list(layers_in_stacks(layout_of_layers(layers, {"": jnp.ones((5, 2, 3))}), [""]))
      [('2x3', [('', 5)])]
    """
    for sheet in layout.sheets:
        counts = sheet.batches()
        yield sheet.regions[0][0], [(names[i], n) for (i, _), n in zip(sheet.members, counts, strict=True)]

"""Check layers, alone and against the parameters."""

from collections.abc import Mapping
from typing import Any

from precond.blocks.layer import Layer
from precond.blocks.path_name import leaves_of

__all__ = ["check_layers", "check_matrices", "check_present"]


def check_layers(layers: Any) -> None:
    """Raise unless these are layers by name.

    Raises:
      TypeError: for anything else. The message says where layers come from.

    Examples:
      >>> import jax.numpy as jnp
      >>> check_layers({"kernel": jnp.ones((2, 3))})
      Traceback (most recent call last):
      TypeError: layers= must be those of a capture, capture.layers, not a dict of ArrayImpl.
    """
    found = layers.values() if isinstance(layers, Mapping) else [layers]
    if wrong := [type(x).__name__ for x in found if not isinstance(x, Layer)]:
        which = f"a dict of {wrong[0]}" if isinstance(layers, Mapping) else f"of type {wrong[0]}"
        raise TypeError(f"layers= must be those of a capture, capture.layers, not {which}.")


def check_matrices(layers: Mapping[str, Layer]) -> None:
    """Raise for layers that are doubly factored, since second moments are captured for matrices alone.

    Args:
      layers: the layers of a capture.

    Raises:
      ValueError: for these layers, which it names.
      TypeError: as `check_layers`.

    Examples:
      >>> check_matrices({"": Layer("kernel", None, 0, (2, 3), (), (0,), (1,))})
    """
    check_layers(layers)
    doubly = sorted(name for name, layer in layers.items() if layer.positions is not None)
    if doubly:
        raise ValueError(
            f"layers= has doubly factored ones, {doubly}, of which no second moments in a basis are captured: let them "
            "expand (sharing=precond.layers.expand), or use precond.kfac."
        )


def check_present(layers: Mapping[str, Layer], params: Any) -> None:
    """Raise unless the parameters have some of these layers, and no bias without its weights.

    Args:
      layers: the layers of a capture.
      params: a tree of parameters. A tree without leaves passes.

    Raises:
      ValueError: naming the missing parameters.

    Examples:
      >>> import jax.numpy as jnp
      >>> layers = {"": Layer("kernel", "bias", 0, (2, 3), (), (0,), (1,))}
      >>> check_present(layers, {"kernel": jnp.ones((2, 3))})
    """
    paths = leaves_of(params).keys()
    for name, layer in layers.items():
        if layer.bias in paths and layer.kernel not in paths and layer.positions is None:
            raise ValueError(
                f"The bias of layer '{name}' is among the parameters, but its weights are not: they share one factor. "
                f"Mask both '{layer.kernel}' and '{layer.bias}', or the bias alone."
            )
    if paths and not any({layer.kernel, layer.bias} & paths for layer in layers.values()):
        raise ValueError(
            "None of the layers= is among the parameters. Give init what the capture was made of: the parameters "
            "alone, not {'params': ..}, and without probes."
        )

"""Helpers of the front ends for Flax and plain JAX: taps with masks, and the input of a call."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from precond.blocks import Probe
from precond.layers.tap import Tap, tap

__all__ = ["check_used", "given_input", "mask_fits", "tapped"]


def given_input(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return the first argument of a call, which is a layer's input.

    Examples:
      >>> given_input((), {"inputs": 3})
      3
    """
    return args[0] if args else next(iter(kwargs.values()), None)


def mask_fits(mask: jax.Array | None, y: jax.Array) -> bool:
    """Return whether a mask has the leading axes of a layer's output.

    Examples:
      >>> import jax.numpy as jnp
      >>> mask_fits(jnp.ones((2, 3)), jnp.ones((2, 3, 4))), mask_fits(jnp.ones((2, 3)), jnp.ones((2, 4)))
      (True, False)
    """
    return mask is not None and y.shape[: mask.ndim] == mask.shape and mask.ndim < y.ndim


def check_used(mask: jax.Array | None, used: Sequence[bool]) -> None:
    """Raise an error for a mask that fits none of the layers that were tapped.

    Args:
      mask: the argument `valid` of a capture's `apply`.
      used: for each tapped layer, whether the mask fits its output.

    Raises:
      ValueError: with the shape of the mask.
    """
    if mask is not None and used and not any(used):
        raise ValueError(
            f"valid of shape {mask.shape} fits the output of no tapped layer, whose leading axes it must have. Give a "
            "mask of [examples, positions], or leave it out."
        )


def tapped(spec: Tap, y: jax.Array, x: jax.Array, probe: Probe, mask: jax.Array | None) -> jax.Array:
    """Tap a layer, with the mask if it fits the positions of the output.

    Args:
      spec: of the tap.
      y: the output of the layer.
      x: its input.
      probe: of the layer.
      mask: of positions that are not padding, or None.
    """
    sums = {name: zeros for name, zeros in probe.sums.items() if name != "examples"}
    return tap(spec, y, x, sums, mask if mask_fits(mask, y) else None, probe.bases)

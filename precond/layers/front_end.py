"""Help the front ends for Flax and plain JAX with masks of taps, the input of a call, and axes of devices."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from precond.blocks import Probe
from precond.layers.tap import Tap, tap
from precond.trees import Tree

__all__ = ["bound", "check_used", "given_input", "mask_fits", "tapped"]


def bound(axis_name: str | Sequence[str] | None, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs as on one device of a `jax.pmap` or `jax.shard_map` with axes of these names.

    Args:
      axis_name: a name, or several, each of which is bound by a map over one entry; None binds none.
      function: a function whose results are arrays.

    Raises:
      ValueError: when the function is called and uses another axis.

    Examples:
      >>> bound("batch", lambda x: jax.lax.pmean(x, "batch"))(jnp.ones(2)).tolist()
      [1.0, 1.0]
      >>> bound(None, lambda x: jax.lax.pmean(x, "batch"))(jnp.ones(2))
      Traceback (most recent call last):
      ...
      ValueError: The model uses the axis 'batch', which only its training over devices binds. Give capture() its ...
    """

    def over_one(inner: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Tree:
            return jax.tree.map(lambda x: x[0], jax.vmap(lambda _: inner(*args), axis_name=name)(jnp.zeros(1)))

        return call

    run = function
    for name in (axis_name,) if isinstance(axis_name, str) else axis_name or ():
        run = over_one(run, name)

    def translated(*args: Any) -> Tree:
        try:
            return run(*args)
        except NameError as error:
            unbound = re.search(r"unbound axis name: ([^\s.]+)", str(error))
            if unbound is None:
                raise
            raise ValueError(
                f"The model uses the axis {unbound[1]!r}, which only its training over devices binds. Give capture() "
                f"its name: axis_name={unbound[1]!r}."
            ) from error

    return translated


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
      >>> (
      ...     mask_fits(jnp.ones((2, 3)), jnp.ones((2, 3, 4))),
      ...     mask_fits(jnp.ones((2, 3)), jnp.ones((2, 4))),
      ... )
      (True, False)
    """
    return mask is not None and y.shape[: mask.ndim] == mask.shape and mask.ndim < y.ndim


def check_used(mask: jax.Array | None, used: Sequence[bool]) -> None:
    """Raise an error for a mask that fits none of the layers that were tapped.

    Args:
      mask: the argument `valid` of a capture's `apply`.
      used: whether the mask fits its output, for each tapped layer.

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
      spec: the tap.
      y: the output of the layer.
      x: the input of the layer.
      probe: the probe of the layer.
      mask: the mask of positions that are not padding, or None.
    """
    sums, bases = {name: zeros for name, zeros in probe.sums.items() if name != "examples"}, probe.bases
    if probe.layer.layer_axes is not None:  # slices of arrays that have the axes of the weights
        shapes = probe.layer.sum_shapes
        sums, bases = ({name: v.reshape(shapes[name]) for name, v in given.items()} for given in (sums, bases))
    return tap(spec, y, x, sums, mask if mask_fits(mask, y) else None, bases)

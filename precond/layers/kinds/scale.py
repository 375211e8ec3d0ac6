"""Define the kind of the scales and shifts of norms: one exact block of the Fisher matrix for each channel."""

import dataclasses

import jax
import jax.numpy as jnp

from precond.blocks import Layer
from precond.layers.kinds.kind import Kind, Signals, count_of

__all__ = ["Scale"]


@dataclasses.dataclass(frozen=True)
class Scale(Kind):
    """Describe the scale of a norm and its shift, `scale x + bias` along the last axis of the normalised input x.

    Attributes:
      bias: whether the layer adds a shift.
    """

    bias: bool
    weights_name = "scale"
    normalised = True

    def layer(self, kernel: str, bias: str | None, shape: tuple[int, ...]) -> Layer:
        """Return the layer: for each channel a column of one or two numbers, without a factor of outputs."""
        return Layer(kernel, bias, len(shape) - 1, shape[-1:], (0,), (), ())

    def signals(self, x: jax.Array, g: jax.Array, batch: int) -> Signals:
        """Return the gradient of each example by channel, `[n, 1, channels, 1 or 2]`."""
        wide = jnp.promote_types(jnp.float32, g.dtype)
        both = [x.astype(wide) * g] + ([g.astype(wide)] if self.bias else [])
        n = count_of(g.shape[:-1], batch)
        return Signals(jnp.stack([y.reshape(n, -1, y.shape[-1]).sum(1) for y in both], axis=-1)[:, None], None)

    def label(self, sharing: str) -> str:
        """Return the kind for the coverage table; no sharing rule acts on it."""
        del sharing
        return "scale"

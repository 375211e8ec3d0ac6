"""Define the kind of convolutions: of any number of spatial dimensions, strided, dilated, grouped or transposed."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import lax

from precond.blocks import Layer
from precond.layers.kinds.kind import Kind, Signals, count_of, with_one

__all__ = ["Conv"]


@dataclasses.dataclass(frozen=True)
class Conv(Kind):
    """Describe a convolution, channels last; the arguments mean what they mean in `jax.lax`.

    Attributes:
      bias: whether the layer adds a bias.
      kernel: the kernel's spatial shape.
      strides: the strides of the window.
      padding: "SAME", "VALID", or (low, high) for each dimension.
      input_dilation: zeros between the input's positions (a transposed convolution's strides).
      kernel_dilation: holes in the kernel.
      groups: the number of groups of channels.
      mode: the mode of `jnp.pad`, for padding in pairs.
    """

    bias: bool
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: str | tuple[tuple[int, int], ...]
    input_dilation: tuple[int, ...]
    kernel_dilation: tuple[int, ...]
    groups: int = 1
    mode: str = "constant"

    def layer(self, kernel: str, bias: str | None, shape: tuple[int, ...]) -> Layer:
        """Return the layer: one matrix for each group, `[positions of the kernel x channels, outputs]`."""
        k = len(self.kernel)
        inner = (*shape[-k - 2 : -1], self.groups, shape[-1] // self.groups)
        return Layer(kernel, bias, len(shape) - k - 2, inner, (k + 1,), tuple(range(k + 1)), (k + 2,))

    def signals(self, x: jax.Array, g: jax.Array, batch: int) -> Signals:
        """Return the patches under the kernel and the cotangents, by position of the output."""
        lead, r = x.shape[: -len(self.kernel) - 1], self.groups
        n = count_of(lead, batch)
        patches = self._patches(x.astype(g.dtype))
        # The patches are channel by channel, [.., C, h w]; the kernel is [h w, C].
        patches = patches.reshape(n, -1, r, x.shape[-1] // r, math.prod(self.kernel))
        inputs = jnp.swapaxes(patches, -1, -2).reshape(*patches.shape[:3], -1)
        return Signals(with_one(inputs, self.bias), g.reshape(n, -1, r, g.shape[-1] // r))

    def _patches(self, x: jax.Array) -> jax.Array:
        k, padding = len(self.kernel), self.padding
        flat = x.reshape(-1, *x.shape[-k - 1 :])
        if self.mode != "constant" and not isinstance(padding, str):
            flat, padding = jnp.pad(flat, [(0, 0), *padding, (0, 0)], mode=self.mode), "VALID"
        space = "".join(chr(ord("a") + i) for i in range(k))
        return lax.conv_general_dilated_patches(
            flat,
            self.kernel,
            self.strides,
            padding,
            lhs_dilation=self.input_dilation,
            rhs_dilation=self.kernel_dilation,
            dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
            precision=lax.Precision.HIGHEST,
        )

    def label(self, sharing: str) -> str:
        """Return the kind for the coverage table, with the number of groups."""
        return super().label(sharing) + (f", {self.groups} groups" if self.groups > 1 else "")

"""What is made of the positions that share a layer's weights, and of the map that its input is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from precond.arguments import check_whole, described
from precond.blocks import Layer
from precond.linalg import closest_rank_one

__all__ = ["DoublyFactored", "Sharing", "doubly_factored", "expand", "reduce"]

Sharing = Callable[[jax.Array, jax.Array | None, jax.Array | None], tuple[jax.Array, jax.Array | None, jax.Array]]
"""From inputs `[n, t, r, i]`, cotangents `[n, t, r, o]` (None for a scale) and a mask `[n, t]` or None to the rows that
the factors are made of, and the weight of each, `[n, t']`."""


def expand(inputs: jax.Array, outputs: Any, mask: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    r"""Shared positions as independent examples: for a loss that is a sum over them (tokens, pixels).

    $A = E_{n,t}[a a^\top]$, $G = E_n[\sum_t g g^\top]$. Exact for deep linear networks. Of a convolution it is KFC,
    $F \approx |T| \, E_{n,t}[a a^\top] \otimes E_{n,t}[g g^\top]$ with a the patch and g the gradient at one of |T|
    positions: |T| times the mean over them is the sum in G.

    Args:
      inputs: `[n, t, r, i]`.
      outputs: `[n, t, r, o]`.
      mask: of the positions that count, `[n, t]`; None for all.

    Reference:
      Grosse and Martens, A Kronecker-factored Approximate Fisher Matrix for Convolution Layers, 2016; Ba, Grosse and
      Martens, 2017, equation 15; Eschenhagen et al., Kronecker-Factored Approximate Curvature for Modern Neural
      Network Architectures, 2023.

    Examples:
      >>> a = jnp.ones((2, 3, 1, 4))
      >>> expand(a, a, None)[2].shape
      (2, 3)
    """
    weights = jnp.ones(inputs.shape[:2], inputs.dtype) if mask is None else mask.astype(inputs.dtype)
    return inputs, outputs, weights


def reduce(inputs: jax.Array, outputs: Any, mask: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    r"""Inputs averaged over shared positions, cotangents summed: for a model that pools over them before its loss.

    $A = E_n[\bar a \bar a^\top]$, $G = E_n[(\sum_t g)(\sum_t g)^\top]$. Of a convolution they are the cheap factors
    with which Ba et al. ran ImageNet, $F \approx |T|^2 \, E_n[\bar a \bar a^\top] \otimes E_n[\bar g \bar g^\top]$
    with bars for means over |T| positions: |T|² times the square of a mean is that of the sum in G.

    Args:
      inputs: `[n, t, r, i]`.
      outputs: `[n, t, r, o]`.
      mask: of the positions that count, `[n, t]`; None for all. An example without any is left out.

    Reference:
      Eschenhagen et al., 2023; Ba, Grosse and Martens, 2017, equations 16 to 19.

    Examples:
      >>> a = jnp.ones((2, 3, 1, 4))
      >>> [x.shape for x in reduce(a, a, None)]
      [(2, 1, 1, 4), (2, 1, 1, 4), (2, 1)]
    """
    weights = expand(inputs, outputs, mask)[2]
    count = jnp.sum(weights, axis=1, keepdims=True)
    mean = jnp.sum(inputs * weights[:, :, None, None], axis=1, keepdims=True) / jnp.maximum(count, 1)[:, :, None, None]
    return mean, jnp.sum(outputs, axis=1, keepdims=True), (count > 0).astype(inputs.dtype)


class DoublyFactored(NamedTuple):
    """Made by `doubly_factored`, whose arguments these are; called, it is `expand`."""

    channels: int | None
    steps: int

    def __call__(self, inputs: jax.Array, outputs: Any, mask: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        """As `expand`."""
        return expand(inputs, outputs, mask)

    def of(self, layer: Layer) -> tuple["DoublyFactored", Layer]:
        """The rule for this layer, and the layer read by this rule.

        Args:
          layer: with one axis for its inputs, or, where the number of channels is not said, several.

        Raises:
          ValueError: where the layer's inputs are not positions times channels.
        """
        channels = layer.shape[layer.inputs[-1]] if self.channels is None and len(layer.inputs) > 1 else self.channels
        inputs = layer.size[1] - (layer.bias is not None)
        if channels is None:
            raise ValueError(
                f"doubly_factored() for '{layer.kernel}': its {inputs} inputs are a single axis. Say how many of them "
                f"are the channels of a position: doubly_factored(channels)."
            )
        if inputs % channels:
            raise ValueError(
                f"doubly_factored({channels}) for '{layer.kernel}': {channels} channels do not divide its {inputs} "
                f"inputs, which must be positions x channels, channels last."
            )
        return self._replace(channels=channels), layer._replace(positions=inputs // channels)

    def halves(self, inputs: jax.Array, positions: int) -> tuple[jax.Array, jax.Array]:
        """The vectors over positions and over channels whose product is the closest to each input.

        Args:
          inputs: `[n, t, r, positions channels]`, a one for the bias behind them.
          positions: their number.
        """
        maps = inputs[..., : positions * (self.channels or 1)].reshape(*inputs.shape[:-1], positions, -1)
        return closest_rank_one(maps, self.steps)


@described()
def doubly_factored(channels: int | None = None, *, steps: int = 16) -> DoublyFactored:
    r"""Three factors for a wide dense layer over a feature map, whose A would be too large to invert.

    An example's input is a map of T positions with C channels. Of each, the closest matrix of rank one
    $K \Psi^\top$ is taken ($K = \sqrt{s_1} \, u_1$, $\Psi = \sqrt{s_1} \, v_1$), and A for the product of what
    positions and channels do apart:

    $$F \approx E[K K^\top] \otimes E[\Psi \Psi^\top] \otimes E[g g^\top]$$

    of $T^2 + C^2$ numbers in place of $(T C)^2$. The weights are read as `[T, C, outputs]`, all three factors are
    damped with $\lambda^{1/3}$ (`precond.balance`), and the bias, for which there is no homogeneous coordinate any
    more, is a block of its own, $E[g g^\top] + \lambda I$.

    A value for `sharing=`: `[("head", doubly_factored(channels=64))]`. What is shared besides, over other axes of the
    input than those of the map, expands.

    Args:
      channels: C, for inputs that were flattened to T C, channels last. None takes the last of the axes that a layer
        contracts: for `DenseGeneral` over height, width and channels.
      steps: of the power iteration that finds $K$ and $\Psi$, as in `precond.linalg.closest_rank_one`: its error falls
        as $(s_2 / s_1)^{2 \, \text{steps}}$, and a step costs 4 T C operations for each example.

    Raises:
      ValueError, TypeError: for numbers below 1; in the capture, for a layer whose inputs do not have such channels.

    Reference:
      Ba, Grosse and Martens, 2017, section 4, equations 4 to 12.

    Examples:
      >>> from precond import layers
      >>> params = {"kernel": jnp.ones((6 * 4, 3)), "bias": jnp.zeros(3)}  # of 6 positions with 4 channels
      >>> capture = layers.explicit({"": layers.dense()}, params, sharing=layers.doubly_factored(channels=4))
      >>> print(capture.coverage)
      layer  kind                          factors          bytes  no factors, because
             contraction, doubly factored  6x6 + 4x4 + 3x3  244
      75 of 75 parameters have factors, of 244 bytes
    """
    if channels is not None:
        check_whole("channels", channels, least=1)
    check_whole("steps", steps, least=1)
    return DoublyFactored(channels, steps)

"""Define the kind of layers over a feature map with a factor of positions and one of channels in place of A."""

import dataclasses
from typing import NamedTuple

import jax

from precond.arguments import check_whole, described
from precond.blocks import Layer
from precond.layers.kinds.kind import Kind, Rows, Signals, gram
from precond.layers.sharing import Sharing, expand
from precond.linalg import closest_rank_one

__all__ = ["DoublyFactored", "FeatureMap", "doubly_factored", "under_sharing"]


@dataclasses.dataclass(frozen=True)
class FeatureMap(Kind):
    """Read the inputs of another kind as maps, `[positions, channels]`; `DoublyFactored.kind_of` makes it.

    Attributes:
      kind: the kind of the layer, whose inputs the maps are.
      positions: how many positions a map has.
      channels: how many channels it has at each.
      steps: the number of steps of the power iteration.
      bias: whether the layer adds a bias.
      normalised: as in `kind`.
    """

    kind: Kind
    positions: int
    channels: int
    steps: int
    bias: bool
    normalised: bool = False

    def layer(self, kernel: str, bias: str | None, shape: tuple[int, ...]) -> Layer:
        """Return the layer of the kind, read as maps."""
        return self.kind.layer(kernel, bias, shape)._replace(positions=self.positions)

    def signals(self, x: jax.Array, g: jax.Array, batch: int) -> Signals:
        """Return the signals of the kind."""
        return self.kind.signals(x, g, batch)

    def sums(self, rows: Rows) -> dict[str, jax.Array]:
        """Return the sums over positions, channels and outputs, of the map of rank one that is closest to each."""
        inputs, outputs, weights = rows
        maps = inputs[..., : self.positions * self.channels]  # without the one of the bias
        maps = maps.reshape(*inputs.shape[:-1], self.positions, self.channels)
        over_positions, over_channels = closest_rank_one(maps, self.steps)
        out = {"positions": gram(over_positions, weights), "inputs": gram(over_channels, weights)}
        return out if outputs is None else out | {"outputs": gram(outputs)}

    def gradient(self, signals: Signals) -> jax.Array:
        """Return the gradient that the kind makes of its signals."""
        return self.kind.gradient(signals)

    def label(self, sharing: str) -> str:
        """Return the kind for the coverage table, and how it is factored."""
        del sharing
        return self.kind.label("doubly factored")


class DoublyFactored(NamedTuple):
    """Hold the arguments of `doubly_factored`, which makes it; called as a sharing rule, it expands."""

    channels: int | None
    steps: int

    def __call__(
        self, inputs: jax.Array, outputs: jax.Array, mask: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Take shared positions as examples, as `precond.layers.expand` does."""
        return expand(inputs, outputs, mask)

    def kind_of(self, kind: Kind, layer: Layer) -> FeatureMap:
        """Return the kind whose inputs are read as maps.

        Args:
          kind: the kind of the layer.
          layer: the layer that the kind makes; it has one axis of inputs, or several if the number of channels is None.

        Raises:
          ValueError: if the layer's inputs are not positions times channels.
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
        return FeatureMap(kind, inputs // channels, channels, self.steps, kind.bias, kind.normalised)


def under_sharing(kind: Kind, layer: Layer, sharing: Sharing) -> Kind:
    """Return the kind that a layer has under a sharing rule: `doubly_factored` replaces that of a layer with a full A.

    Args:
      kind: the kind of the layer.
      layer: the layer that the kind makes.
      sharing: a sharing rule.

    Examples:
      >>> from precond.layers import dense
      >>> kind = under_sharing(
      ...     dense(False), dense(False).layer("kernel", None, (12, 5)), doubly_factored(3)
      ... )
      >>> kind.layer("kernel", None, (12, 5)).tensor
      (4, 3, 5)
    """
    full = bool(layer.outputs) and not layer.diagonal
    return sharing.kind_of(kind, layer) if full and isinstance(sharing, DoublyFactored) else kind


@described()
def doubly_factored(channels: int | None = None, *, steps: int = 16) -> DoublyFactored:
    r"""Give three factors to a wide dense layer over a feature map, whose A would be too large to invert.

    The input of an example is a map of T positions with C channels. The closest matrix of rank one, $K \Psi^\top$ with
    $K = \sqrt{s_1} \, u_1$ and $\Psi = \sqrt{s_1} \, v_1$, replaces it, and a Kronecker product of the moments of
    positions and channels replaces A:

    $$F \approx E[K K^\top] \otimes E[\Psi \Psi^\top] \otimes E[g g^\top]$$

    It has $T^2 + C^2$ numbers in place of $(T C)^2$. The weights are read as `[T, C, outputs]`, and all three factors
    are damped with $\lambda^{1/3}$ (`precond.balance`). The bias has no homogeneous coordinate any more: it is a block
    of its own, $E[g g^\top] + \lambda I$.

    The result is a value for `sharing=`: `[("head", doubly_factored(channels=64))]`. Positions that share the weights,
    over other axes of the input than those of the map, expand.

    Args:
      channels: C, for inputs that were flattened to T C, channels last. None takes the last of the axes that a layer
        contracts, as for `DenseGeneral` over height, width and channels.
      steps: the number of steps of the power iteration that finds $K$ and $\Psi$ (`precond.linalg.closest_rank_one`).
        Its error falls as $(s_2 / s_1)^{2 \, \text{steps}}$, and a step costs 4 T C operations for each example.

    Raises:
      ValueError, TypeError: if a number is below 1; in the capture, if the inputs of a layer do not have such channels.

    Reference:
      Ba, Grosse and Martens, 2017, section 4, equations 4 to 12.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond import layers
      >>> # There are 6 positions with 4 channels.
      >>> params = {
      ...     "kernel": jnp.ones((6 * 4, 3)),
      ...     "bias": jnp.zeros(3),
      ... }
      >>> capture = layers.explicit(
      ...     {"": layers.dense()}, params, sharing=layers.doubly_factored(channels=4)
      ... )
      >>> print(capture.coverage)
      layer  kind                          factors          bytes  no factors, because
             contraction, doubly factored  6x6 + 4x4 + 3x3  244
      75 of 75 parameters have factors, of 244 bytes
    """
    if channels is not None:
        check_whole("channels", channels, least=1)
    check_whole("steps", steps, least=1)
    return DoublyFactored(channels, steps)

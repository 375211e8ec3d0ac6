"""Choose the rows that factors are made of where positions share a layer's weights: each choice is a sharing rule."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

__all__ = ["Sharing", "expand", "reduce"]

Sharing = Callable[[jax.Array, jax.Array, jax.Array | None], tuple[jax.Array, jax.Array, jax.Array]]
"""A function from inputs `[n, t, r, i]`, cotangents `[n, t, r, o]` and a mask `[n, t]` or None to the rows that factors
are made of: their inputs, their cotangents, and the weight of each row, `[n, t']`."""


def expand(inputs: jax.Array, outputs: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    r"""Take shared positions as independent examples: for a loss that is a sum over them (tokens, pixels).

    $A = E_{n,t}[a a^\top]$, $G = E_n[\sum_t g g^\top]$. It is exact for deep linear networks. For a convolution it is
    KFC, $F \approx |T| \, E_{n,t}[a a^\top] \otimes E_{n,t}[g g^\top]$, with a the patch and g the gradient at one of
    |T| positions: |T| times the mean over them is the sum in G.

    Args:
      inputs: the inputs of the layer, `[n, t, r, i]`.
      outputs: the cotangents of its outputs, `[n, t, r, o]`.
      mask: the mask of the positions that count, `[n, t]`; None counts all.

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


def reduce(inputs: jax.Array, outputs: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    r"""Average inputs over shared positions and add up cotangents: for a model that pools over them before its loss.

    $A = E_n[\bar a \bar a^\top]$, $G = E_n[(\sum_t g)(\sum_t g)^\top]$. For a convolution these are the cheap factors
    with which Ba et al. ran ImageNet, $F \approx |T|^2 \, E_n[\bar a \bar a^\top] \otimes E_n[\bar g \bar g^\top]$
    with bars for means over |T| positions: |T|² times the square of a mean is that of the sum in G.

    Args:
      inputs: the inputs of the layer, `[n, t, r, i]`.
      outputs: the cotangents of its outputs, `[n, t, r, o]`.
      mask: the mask of the positions that count, `[n, t]`; None counts all. An example without any position has weight
        0.

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

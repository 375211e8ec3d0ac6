"""Average K-FAC's factors over several micro-steps, layer by layer."""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from precond.blocks import Layer, LayerFactors, leaves_of
from precond.trees import Tree, wide_dtype

__all__ = ["average_factors", "zero_factors"]


def zero_factors(layers: Mapping[str, Layer], params: Tree) -> dict[str, LayerFactors] | jax.Array:
    """Return zeros like the factors of the layers whose weights are among the parameters, float32 or wider.

    Args:
      layers: the layers of a capture.
      params: the parameters, or their shapes.

    Returns:
      `LayerFactors` by layer; without any layer one empty array, which `optax.tree.map_params` does not take for a
      parameter.

    Examples:
      >>> layers = {"": Layer("kernel", "bias", 0, (2, 3), (), (0,), (1,))}
      >>> [
      ...     x.shape
      ...     for x in zero_factors(
      ...         layers, {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
      ...     )[""][:2]
      ... ]
      [(1, 3, 3), (1, 3, 3)]
    """
    leaves = leaves_of(params)

    def pair(layer: Layer) -> LayerFactors:
        kernel, sides, columns = leaves[layer.kernel], layer.tensor[:-1], layer.tensor[-1]
        n, dtype = math.prod(layer.layer_sizes(tuple(kernel.shape))) * layer.size[0], wide_dtype(kernel)
        first, *more = [jnp.zeros((n, d) if layer.diagonal else (n, d, d), dtype) for d in sides]
        outputs = jnp.zeros((n, columns, columns), dtype) if layer.outputs else None
        return LayerFactors((first, *more) if more else first, outputs)

    return {name: pair(x) for name, x in layers.items() if x.kernel in leaves} or jnp.zeros((0,))


def average_factors(
    mean: Mapping[str, LayerFactors], count: jax.Array, factors: Mapping[str, Sequence[jax.Array]]
) -> dict[str, LayerFactors]:
    """Add the factors of one more micro-step to a mean.

    Args:
      mean: the mean of `count` factors, or `zero_factors`.
      count: the number of factors in the mean; it may be 0.
      factors: the new factors by layer, `LayerFactors` or a pair.

    Raises:
      ValueError: for factors of other layers, and for factors with second moments, which belong to one step's bases.

    Examples:
      >>> one, three = ({"": LayerFactors(jnp.asarray(x), None)} for x in (1.0, 3.0))
      >>> average_factors(one, jnp.asarray(1), three)[""].inputs.item()
      2.0
    """
    missing = set(mean) - set(factors)
    if missing:
        raise ValueError(
            f"factors= has none for the layers {sorted(missing)}. Pass the factors and layers= of the same capture."
        )
    seen = {name: LayerFactors(*factors[name]) for name in mean}
    if any(f.moments is not None for f in seen.values()):
        raise ValueError(
            "factors= come with second moments, which are not averaged over micro-steps: capture without state= for "
            "precond.kfac, or let precond.ekfac see whole batches."
        )
    return jax.tree.map(lambda m, f: m + (jnp.asarray(f, m.dtype) - m) / (count + 1), mean, seen)

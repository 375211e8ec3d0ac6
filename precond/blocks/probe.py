"""Put zeros among the parameters of a layer, whose cotangents are the sums that K-FAC needs."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from precond.blocks.layer import Layer
from precond.blocks.layer_axes import gather_layer_axes

__all__ = ["LayerFactors", "Probe", "with_zero_probes", "without_probes"]


class LayerFactors(NamedTuple):
    """Hold the Kronecker factors of one layer's Fisher matrix, as estimated from one batch.

    Attributes:
      inputs: A, `[L, i, i]` (the bias last), or its diagonal `[L, i]` for an embedding; L counts scanned layers and
        groups. For a doubly factored layer, the pair `[L, positions, positions]` and `[L, channels, channels]`. For a
        norm, the Fisher blocks of its channels.
      outputs: G, `[L, o, o]`; None for a norm.
      moments: the second moments of the gradients of examples in a basis, `[L, i, o]`; None if they were not asked for.
    """

    inputs: Any
    outputs: jax.Array | None
    moments: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Probe:
    """Hold the probe of one layer: a node of the tree of parameters that says which layer it belongs to.

    Attributes:
      layer: the layer, with paths relative to the module that holds the probe.
      sums: zeros in parameters; in their gradient, the sums over a batch by `precond.layers.tap`, by name.
      bases: the bases in which second moments are summed, as `precond.layers.tap` takes them.

    Examples:
      >>> layer = Layer("kernel", None, 0, (1, 1), (), (0,), (1,))
      >>> sums = {
      ...     "inputs": jnp.full((1, 1), 6.0),
      ...     "outputs": jnp.full((1, 1), 8.0),
      ...     "rows": jnp.asarray(2.0),
      ... }
      >>> [x.item() for x in Probe(layer, sums).factors(examples=4)[:2]]
      [3.0, 2.0]
    """

    layer: Layer = dataclasses.field(metadata={"static": True})
    sums: Mapping[str, jax.Array]
    bases: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)

    def factors(self, examples: ArrayLike) -> LayerFactors:
        """Return the factors, from the sums over a batch.

        Args:
          examples: the number by which the sum is divided to make the loss, if the outputs' cotangents are those of the
            *sum* of the examples' losses. (For those of their mean over N, that is 1 / N.)
        """
        layer, s = self.layer, {name: self.gathered(name, x) for name, x in self.sums.items()}
        examples = self.gathered("examples", jnp.asarray(examples))
        # A norm's factor is already one of cotangents.
        rows = jnp.maximum(s["rows"], 1) if layer.outputs else examples

        def stacked(x: jax.Array, count: ArrayLike, flat: bool = False) -> jax.Array:
            count = jnp.asarray(count)
            x = x / count.reshape(count.shape + (1,) * (x.ndim - count.ndim))
            return self._as_batch(x, 1 if flat else 2)

        outputs = stacked(s["outputs"], examples) if "outputs" in s else None
        moments = stacked(s["moments"], examples) if "moments" in s else None
        inputs = stacked(s["inputs"], rows, layer.diagonal)
        return LayerFactors((stacked(s["positions"], rows), inputs) if layer.positions else inputs, outputs, moments)

    def gathered(self, name: str, x: jax.Array) -> jax.Array:
        """Return one of the sums with the axes of scans and maps in front.

        Args:
          name: the name of the sum.
          x: the sum.
        """
        axes = self.layer.layer_axes
        return x if axes is None or not x.ndim else gather_layer_axes(x, axes, self.layer.sum_shapes[name])

    def _as_batch(self, x: jax.Array, sides: int) -> jax.Array:
        """Return an array `[layers.., groups, ..]` as `[L, ..]`, L in the order of the weights' batch."""
        layer, own = self.layer, x.shape[x.ndim - sides :]
        if layer.layer_axes is not None:
            sizes = x.shape[: layer.layer_ndim]
            x = x.reshape(*sizes, *(layer.shape[i] for i in layer.groups), *own)
            x = x.transpose(*layer.batch_order, *range(x.ndim - sides, x.ndim))
        return x.reshape(-1, *own)


def _is_probe(x: Any) -> bool:
    return isinstance(x, Probe)


def without_probes(tree: Any) -> Any:
    """Put None in place of the probes of a tree.

    Args:
      tree: a tree of parameters, or another tree of the same structure.

    Examples:
      >>> without_probes(
      ...     {
      ...         "kernel": 1.0,
      ...         "_kfac": Probe(Layer("kernel", None, 0, (1, 1), (), (0,), (1,)), {}),
      ...     }
      ... )
      {'_kfac': None, 'kernel': 1.0}
    """
    return jax.tree.map(lambda x: None if _is_probe(x) else x, tree, is_leaf=_is_probe)


def with_zero_probes(tree: Any, rest: Any) -> Any:
    """Put zeros in place of the probes of a tree, and the leaves of another tree in place of the rest.

    Args:
      tree: a tree with probes.
      rest: a tree as from `without_probes`.

    Examples:
      >>> with_zero_probes({"kernel": 1.0}, {"kernel": 2.0})
      {'kernel': 2.0}
    """
    leaves, treedef = jax.tree.flatten(tree, is_leaf=_is_probe)
    others = iter(jax.tree.leaves(rest))
    return treedef.unflatten([jax.tree.map(jnp.zeros_like, x) if _is_probe(x) else next(others) for x in leaves])

"""Define a capture: the layers of a model, their probes, and the way in which parameters carry them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from precond.blocks import Layer, LayerFactors, Probe, leaves_of, spread_shape
from precond.layers.carriers import probe_of
from precond.layers.count_examples import count_examples
from precond.layers.coverage import Coverage
from precond.layers.nested import inserted, subtree, without
from precond.layers.tap import Tap
from precond.trees import Leaf, Tree, wide_dtype

__all__ = ["Capture", "counted"]


class Capture(NamedTuple):
    """Hold the layers of a model, and how their factors are captured; a front end makes it.

    Attributes:
      layers: the layers by path, for `layers=` of `precond.kfac` and `precond.scale_by_kfac`.
      taps: the way in which each layer is tapped, by the same paths.
      coverage: the table of which parameters have factors, which have none, and why; print it.
      apply: the model with its taps in place, called as the model itself; taps act where parameters carry probes.
    """

    layers: dict[str, Layer]
    taps: dict[str, Tap]
    coverage: Coverage
    apply: Callable[..., Any]

    def probes(
        self, params: Tree, *, check: bool = False, count: bool = False, moments: bool = False
    ) -> dict[str, Probe]:
        """Return zeros whose cotangents are the layers' sums.

        Args:
          params: the model's parameters (or anything with their shapes and dtypes).
          check: also ask for each layer's gradient as its signals have it.
          count: also ask for the number of examples.
          moments: also ask for second moments; the probes then need bases.
        """
        leaves, out = leaves_of(params), {}
        for name, layer in self.layers.items():
            if layer.kernel not in leaves:
                raise ValueError(
                    f"params= has no '{layer.kernel}', for which the capture has factors: give the parameters alone, "
                    f"those that it was made of, and not {{'params': ..}}."
                )
            sums = _zeros(layer, leaves[layer.kernel], check=check, count=count, moments=moments)
            out[name] = Probe(layer.seen_from(name), sums)
        return out

    def attach(self, params: Tree, probes: Mapping[str, Probe] | None = None) -> Any:
        """Return the parameters with a probe beside those of each layer.

        Training loops that can pass no `factors=` start from them: the gradient of a loss of `apply` by them holds the
        factors, for `precond.kfac` without `layers`. Give `apply` either the probes of all layers or none.

        Args:
          params: a tree in which the parameters of each layer are a dictionary, a tuple, a list or a dataclass.
          probes: the probes that the method `probes` returned; None makes probes that count examples.
        """
        for name, probe in (self.probes(params, count=True) if probes is None else probes).items():
            params = inserted(params, name, probe)
        return params

    def detach(self, params: Tree) -> Any:
        """Return the parameters without probes: the inverse of `attach`.

        Args:
          params: the parameters, which carry probes.
        """
        return without(params)

    def counted(self, params: Tree, outputs: Tree) -> Any:
        """Return the model's outputs themselves; in the backward pass, the probes count their examples.

        Models in plain JAX that train on parameters from `attach` call it on the outputs that they return. The front
        ends for Flax call it themselves.

        Args:
          params: the parameters, which may carry probes.
          outputs: the outputs of the model, by examples.
        """
        return counted(self.taps, params, outputs)

    def factors(self, sums: Mapping[str, Probe], examples: jax.typing.ArrayLike) -> dict[str, LayerFactors]:
        """Return the factors of a batch from its sums.

        Args:
          sums: the probes' cotangents.
          examples: as in `precond.blocks.Probe.factors`.
        """
        return {name: probe.factors(examples) for name, probe in sums.items()}


def _zeros(layer: Layer, kernel: Leaf, *, check: bool, count: bool, moments: bool) -> dict[str, jax.Array]:
    """Return the entries of a layer's probe."""
    dtype = wide_dtype(kernel)
    layers, shapes = layer.layer_sizes(tuple(kernel.shape)), layer.sum_shapes
    names = ["rows", *layer.factor_shapes, *["gradient"] * check, *["moments"] * moments, *["examples"] * count]

    def whole(shape: tuple[int, ...]) -> tuple[int, ...]:
        axes = layer.layer_axes
        return (*layers, *shape) if axes is None else spread_shape(layers, shape, axes, kernel.ndim)

    return {name: jnp.zeros(whole(shapes[name]), dtype) for name in names}


def counted(taps: Mapping[str, Tap], params: Tree, outputs: Tree) -> Tree:
    """Return the outputs themselves; in the backward pass, the probes count their examples (`Capture.counted`).

    Args:
      taps: the taps of a capture.
      params: the parameters, which may carry probes.
      outputs: the outputs of the model, by examples.
    """
    probes = [probe_of(subtree(params, path)) for path in taps]
    counters = [p.sums["examples"] for p in probes if p is not None and "examples" in p.sums]
    return count_examples(outputs, counters, next(iter(taps.values())).batch) if counters else outputs

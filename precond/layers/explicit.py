"""Capture layers of plain JAX, which the user names and taps by a call."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from precond.arguments import described, is_function, shown
from precond.blocks import leaves_of
from precond.layers.assemble import LayerSpec, assemble
from precond.layers.capture import Capture
from precond.layers.carriers import carrying, probe_of
from precond.layers.check_patterns import check_patterns
from precond.layers.coverage import Uncovered, check_covered
from precond.layers.front_end import tapped
from precond.layers.kinds import Kind
from precond.layers.nested import subtree
from precond.layers.sharing import Sharing, expand
from precond.layers.tap import Tap

__all__ = ["explicit"]


@described()
def explicit(
    kinds: Mapping[str, Kind | LayerSpec],
    params: Any,
    *,
    sharing: Sharing | Sequence[tuple[str, Sharing]] = expand,
    batch: int = 1,
    allow_uncovered: Uncovered = (),
) -> Capture:
    """Capture layers that are named here, for models in plain JAX.

    In the model, `y = capture.apply(path, layer_params, y, x)` behind each layer marks its output y and its input x,
    and returns y; `layer_params` is the layer's own entry of the parameters. The call does nothing if the parameters
    carry no probes. Inside scans and maps over layers it gets their slices.

    Args:
      kinds: the kind of each layer by the path of its parameters: `dense()`, `einsum(..)`, `Conv(..)`, `Embed(..)`,
        `Scale(..)` of `precond.layers`, or a `precond.layers.Kind` of your own. Their weights are called `kernel`,
        `embedding` or `scale` and their bias `bias`, unless a `precond.layers.LayerSpec` says otherwise: in a list of
        pairs, the first layer is `{"0": LayerSpec(dense(), "0", "1")}`.
      params: the parameters, or anything with their shapes and dtypes: dictionaries, lists, tuples and dataclasses that
        JAX knows, in one another.
      sharing: `precond.layers.expand` or `precond.layers.reduce`, or pairs of a regular expression and one of them.
      batch: how many leading axes of the layers' inputs number the examples; 0 for a model of one example that is
        mapped.
      allow_uncovered: paths of parameters that may have no factors.

    Returns:
      A `precond.layers.Capture`.

    Raises:
      ValueError: if a parameter has no factors and is not in `allow_uncovered`.
      TypeError: if the parameters of a layer are of a class that can carry no probe.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond import layers
      >>> params = {"first": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}}
      >>> capture = layers.explicit({"first": layers.dense()}, params)
      >>> def model(params, x):
      ...     p = params["first"]
      ...     return capture.apply("first", p, x @ p["kernel"] + p["bias"], x)
      >>> print(capture.coverage)
      layer  kind                 factors    bytes  no factors, because
      first  contraction, expand  4x4 + 2x2  80
      8 of 8 parameters have factors, of 80 bytes
    """
    for path, kind in kinds.items():
        if not isinstance(kind, LayerSpec) and (is_function(kind) or not hasattr(kind, "weights_name")):
            call = " Call this function." if is_function(kind) else ""
            raise TypeError(f"kinds= has {shown(kind)} for '{path}', where a precond.layers.dense() belongs.{call}")

    def spec_of(kind: Kind | LayerSpec) -> LayerSpec:
        return kind if isinstance(kind, LayerSpec) else LayerSpec(kind, kind.weights_name)

    def bind(taps: Mapping[str, Tap]) -> Callable[..., jax.Array]:
        def apply(path: str, params: Any, y: jax.Array, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
            probe = probe_of(params)
            if path not in taps:
                raise ValueError(f"capture.apply is given '{path}', but the layers are {', '.join(map(repr, taps))}.")
            return y if probe is None else tapped(taps[path], y, x, probe, mask)

        return apply

    specs = {path: spec_of(kind) for path, kind in kinds.items()}
    known = leaves_of(params)
    for path, layer in specs.items():
        if (place := f"{path}/{layer.weights}" if path else layer.weights) not in known:
            raise ValueError(f"kinds= has '{path}', but the parameters have no '{place}': they are {', '.join(known)}.")
        carrying(subtree(params, path), None)
    capture = assemble(specs, {}, params, bind, sharing=sharing, batch=batch)
    check_patterns("allow_uncovered", allow_uncovered, leaves_of(params))
    check_covered(capture.coverage, allow_uncovered)
    return capture

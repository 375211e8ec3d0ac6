"""What every front end gives: layers, their probes, and how parameters carry them."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from precond.arguments import shown
from precond.blocks import Factors, Layer, Probe
from precond.layers.coverage import Coverage, Row, check_patterns
from precond.layers.kinds import Embed, Kind, Scale
from precond.layers.nested import PROBE, at, inserted, leaves_of, without
from precond.layers.sharing import DoublyFactored, Sharing, expand
from precond.layers.tap import Tap, tally, tap

__all__ = [
    "Capture",
    "Found",
    "assemble",
    "check_used",
    "counted",
    "fits",
    "given_input",
    "sharing_of",
    "tapped",
]


class Found(NamedTuple):
    """A layer as a front end finds it.

    Attributes:
      kind: of the layer.
      weights: the name of its weights among its parameters.
      bias: the name of its bias, used where the kind has one.
      shape: of the weights where the layer is called, which must be their last axes among the parameters (those of
        scans and maps are the first); None does not look.
    """

    kind: Kind
    weights: str = "kernel"
    bias: str = "bias"
    shape: tuple[int, ...] | None = None


class Capture(NamedTuple):
    """The layers of a model, and how their factors are captured; made by a front end.

    Attributes:
      layers: by path; for `layers=` of `precond.kfac` and `precond.scale_by_kfac`.
      taps: likewise.
      coverage: which parameters have factors, and which not, and why; print it.
      apply: the model with its taps in place, called as the model itself; taps act where parameters carry probes.
    """

    layers: dict[str, Layer]
    taps: dict[str, Tap]
    coverage: Coverage
    apply: Callable[..., Any]

    def probes(
        self, params: Any, *, check: bool = False, count: bool = False, moments: bool = False
    ) -> dict[str, Probe]:
        """Zeros, whose cotangents are the layers' sums.

        Args:
          params: the model's parameters (or anything with their shapes and dtypes).
          check: also ask for each layer's gradient as its signals have it.
          count: also ask for the number of examples.
          moments: also ask for second moments; the probes then need bases.
        """
        leaves, out = leaves_of(params), {}
        for name, layer in self.layers.items():
            sums = _zeros(layer, leaves[layer.kernel], check=check, count=count, moments=moments)
            out[name] = Probe(layer.seen_from(name), sums)
        return out

    def attach(self, params: Any, probes: Mapping[str, Probe] | None = None) -> Any:
        """The parameters, with a probe beside those of each layer.

        They are what training loops that can pass no `factors=` start from: the gradient of a loss of `apply` by them
        has the factors in it, for `precond.kfac` without `layers`. In what is given to `apply` every layer has its
        probe, or none has.

        Args:
          params: nested dictionaries.
          probes: from `probes`; None makes some that count examples.
        """
        for name, probe in (self.probes(params, count=True) if probes is None else probes).items():
            params = inserted(params, name, probe)
        return params

    def detach(self, params: Any) -> Any:
        """The inverse of `attach`.

        Args:
          params: that carry probes.
        """
        return without(params)

    def counted(self, params: Any, outputs: Any) -> Any:
        """The model's outputs themselves; in the backward pass, the probes are told of how many examples they are.

        For models in plain JAX that are to train on parameters from `attach`: to be called on what they return. The
        front ends for Flax do it.

        Args:
          params: that may carry probes.
          outputs: of the model, by examples.
        """
        return counted(self.taps, params, outputs)

    def factors(self, sums: Mapping[str, Probe], examples: jax.typing.ArrayLike) -> dict[str, Factors]:
        """From sums over a batch to factors.

        Args:
          sums: what the probes' cotangents are.
          examples: as in `precond.blocks.Probe.factors`.
        """
        return {name: probe.factors(examples) for name, probe in sums.items()}


def _zeros(layer: Layer, kernel: Any, *, check: bool, count: bool, moments: bool) -> dict[str, jax.Array]:
    """The entries of a layer's probe."""
    dtype = jnp.promote_types(jnp.float32, kernel.dtype)
    lead, (groups, i, o) = tuple(kernel.shape[: layer.lead]), layer.size
    some = (groups,) if layer.groups else ()

    def zeros(*shape: int) -> jax.Array:
        return jnp.zeros((*lead, *shape), dtype)

    last = layer.tensor[-2]
    out = {"inputs": zeros(i) if layer.diagonal else zeros(*some, last, last), "rows": zeros()}
    if layer.positions is not None:
        out["positions"] = zeros(*some, layer.positions, layer.positions)
    if layer.outputs:  # a scale has none
        out["outputs"] = zeros(*some, o, o)
    of_weights = ["gradient"] * check + ["moments"] * moments
    return out | {name: zeros(groups, i, o) for name in of_weights} | ({"examples": zeros()} if count else {})


def counted(taps: Mapping[str, Tap], params: Any, outputs: Any) -> Any:
    """As the method of `Capture`."""
    probes = [at(params, path).get(PROBE) for path in taps]
    counters = [p.sums["examples"] for p in probes if p is not None and "examples" in p.sums]
    return tally(outputs, counters, next(iter(taps.values())).batch) if counters else outputs


def sharing_of(sharing: Sharing | Sequence[tuple[str, Sharing]]) -> Callable[[str], Sharing]:
    """From what a user may give for `sharing` to a function of a layer's path.

    Args:
      sharing: one rule for all layers, or pairs of a regular expression and a rule; the first found in a path
        decides, and a path in which none is found expands.

    Examples:
      >>> from precond.layers.sharing import reduce
      >>> sharing_of([("conv", reduce)])("conv_1") is reduce
      True
    """
    if callable(sharing):
        return lambda path: sharing
    for pair in sharing:
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and callable(pair[1])):
            raise TypeError(
                f"sharing= has {shown(pair)}, where a pair of a regular expression and precond.layers.expand or "
                f"precond.layers.reduce belongs."
            )
    pairs = [(re.compile(pattern), rule) for pattern, rule in sharing]
    return lambda path: next((rule for pattern, rule in pairs if pattern.search(path)), expand)


def assemble(
    found: Mapping[str, Found],
    reasons: Mapping[str, str],
    params: Any,
    bind: Callable[[Mapping[str, Tap]], Callable[..., Any]],
    *,
    sharing: Sharing | Sequence[tuple[str, Sharing]],
    batch: int,
) -> Capture:
    """A capture of the layers that a front end found.

    Args:
      found: by path.
      reasons: for paths that have no rule, why.
      params: the model's parameters.
      bind: from the taps by path to the `apply` of a `Capture`.
      sharing: as in `sharing_of`.
      batch: as in `Tap`.
    """
    leaves, rule = leaves_of(params), sharing_of(sharing)
    if not callable(sharing):
        check_patterns("sharing", [pattern for pattern, _ in sharing], sorted(found))
    layers, taps, rows = {}, {}, []
    for path, layer in sorted(found.items()):
        try:
            kind, weights, bias = _among(leaves, f"{path}/" if path else "", layer)
        except ValueError as why:
            reasons = {**reasons, path: str(why)}
            continue
        kernel, how = leaves[weights], rule(path)
        layers[path] = kind.layer(weights, bias, tuple(kernel.shape))
        if isinstance(how, DoublyFactored) and not isinstance(kind, (Embed, Scale)):
            how, layers[path] = how.of(layers[path])
        taps[path] = Tap(kind, how, batch)
        rows.append(Row.of(path, layers[path], taps[path], kernel))
    owned = {x for layer in layers.values() for x in (layer.kernel, layer.bias)}
    for path, leaf in leaves.items():
        if path not in owned:
            rows.append(Row(path, "", "", 0, _reason(path, reasons), leaf.size))
    return Capture(layers, taps, Coverage(tuple(rows)), bind(taps))


def _among(leaves: Mapping[str, Any], place: str, found: Found) -> tuple[Kind, str, str | None]:
    """A layer's kind, and the paths of its weights and bias among the parameters."""
    kind, weights, bias = found.kind, place + found.weights, place + found.bias
    if weights not in leaves:
        raise ValueError("the weights of its layer are those of another one, or no parameters")
    inner, outer = found.shape, tuple(leaves[weights].shape)
    if inner is not None and outer[len(outer) - len(inner) :] != inner:
        raise ValueError("its weights are scanned, mapped or stacked over another axis than the first")
    if isinstance(kind, Embed) or not kind.bias:
        return kind, weights, None
    return (kind, weights, bias) if bias in leaves else (kind._replace(bias=False), weights, None)


def _reason(path: str, reasons: Mapping[str, str]) -> str:
    """Of the innermost module around a parameter that has one."""
    while path:
        path = path.rpartition("/")[0]
        if path in reasons:
            return reasons[path]
    return "no layer that is called uses it"


def given_input(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a module is called with first."""
    return args[0] if args else next(iter(kwargs.values()), None)


def fits(mask: Any, y: jax.Array) -> bool:
    """Whether a mask is of the leading axes of a layer's output."""
    return mask is not None and y.shape[: mask.ndim] == mask.shape and mask.ndim < y.ndim


def check_used(mask: Any, used: Sequence[bool]) -> None:
    """Raise for a mask that fitted none of the layers that were tapped."""
    if mask is not None and used and not any(used):
        raise ValueError(f"valid of shape {mask.shape} are the leading axes of no tapped layer's output.")


def tapped(spec: Tap, y: jax.Array, x: jax.Array, probe: Probe, mask: jax.Array | None) -> jax.Array:
    """`tap`, with a mask where it fits the positions of the output."""
    sums = {name: zeros for name, zeros in probe.sums.items() if name != "examples"}
    return tap(spec, y, x, sums, mask if fits(mask, y) else None, probe.bases)

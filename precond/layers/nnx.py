"""The front end for Flax nnx: unmodified models, whose layers are tapped in a copy that lasts for one call."""

import contextvars
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from precond.arguments import described
from precond.layers.capture import Capture, Found, check_used, fits, given_input, tapped
from precond.layers.check import of_believed
from precond.layers.convolutions import as_tuple, convolution, transposed_convolution
from precond.layers.coverage import Leave
from precond.layers.kinds import Contraction, Embed, Scale, dense, einsum
from precond.layers.nested import PROBE, at, leaves_of
from precond.layers.sharing import Sharing, expand
from precond.layers.tap import Tap, tally

__all__ = ["RULES", "ProbeParam", "attached", "capture"]

Rule = Callable[[Any], Found]
"""From a module to what it is; ValueError says why it cannot be tapped."""


class ProbeParam(nnx.Param):
    """A layer's probe among its variables; a parameter, so that who differentiates by parameters has its cotangent."""


def _general(m: nnx.LinearGeneral) -> Found:
    axes, features = as_tuple(m.axis), len(as_tuple(m.out_features))
    if any(a >= 0 for a in axes) or as_tuple(m.batch_axis or ()):
        raise ValueError("a LinearGeneral over axes counted from the front, or with batch axes")
    kind = Contraction(m.use_bias, axes, tuple(range(-features, 0)), weights="i" * len(axes) + "o" * features)
    return Found(kind, shape=(*as_tuple(m.in_features), *as_tuple(m.out_features)))


def _einsum(m: nnx.Einsum) -> Found:
    left = m.einsum_str.partition(",")[0].strip()
    kind = einsum(m.einsum_str, len(left.replace("...", "x").replace(" ", "")), m.bias is not None)
    return Found(kind, shape=tuple(m.kernel_shape))


def _norm(m: Any) -> Found:
    if m.scale is None or as_tuple(getattr(m, "feature_axes", getattr(m, "axis", -1))) != (-1,):
        raise ValueError("a norm without a scale, or with one along other axes than the last")
    features = getattr(m, "num_features", None)
    return Found(Scale(getattr(m, "bias", None) is not None), "scale", shape=None if features is None else (features,))


RULES: Mapping[type, Rule] = {
    nnx.Linear: lambda m: Found(dense(m.use_bias), shape=(m.in_features, m.out_features)),
    nnx.LinearGeneral: _general,
    nnx.Einsum: _einsum,
    nnx.Conv: lambda m: Found(convolution(m), shape=tuple(m.kernel_shape)),
    nnx.ConvTranspose: lambda m: Found(transposed_convolution(m), shape=tuple(m.kernel_shape)),
    nnx.Embed: lambda m: Found(Embed(m.num_embeddings), "embedding", shape=(m.num_embeddings, m.features)),
    nnx.LayerNorm: _norm,
    nnx.RMSNorm: _norm,
    nnx.GroupNorm: _norm,
    nnx.BatchNorm: _norm,
}
"""By the module's own type; a subclass may do anything, so it needs a rule of its own."""


_CLOSED = (nnx.SpectralNorm,)
"""What is inside may carry no probes."""


def _normalised(cls: Any, m: Any, args: Any, kwargs: Any) -> jax.Array:
    """The output of a norm without its scale and shift, from a copy: a norm may update statistics when called."""
    twin: Any = nnx.merge(*nnx.split(m), copy=True)
    for name, value in (("scale", 1.0), ("bias", 0.0)):
        variable = getattr(twin, name, None)
        if variable is not None:
            variable[...] = jnp.full_like(variable[...], value)
    return cls.__call__(twin, *args, **kwargs)


_VALID: contextvars.ContextVar[Any] = contextvars.ContextVar("valid", default=(None, []))
"""The mask of one call of `apply`, and whether it fitted, by tapped layer."""


@functools.cache
def _tapped_class(cls: Any, spec: Tap) -> Any:
    """A subclass that differs in its call alone; one for each kind, so that graphs with equal layers stay equal."""

    def call(self: Any, *args: Any, **kwargs: Any) -> jax.Array:
        y = cls.__call__(self, *args, **kwargs)
        signal = _normalised(cls, self, args, kwargs) if isinstance(spec.kind, Scale) else given_input(args, kwargs)
        valid, used = _VALID.get()
        used.append(fits(valid, y))
        return tapped(spec, y, signal, getattr(self, PROBE).get_value(), valid)

    return type(f"Tapped{cls.__name__}", (cls,), {"__call__": call})


@described()
def capture(
    model: nnx.Module,
    *args: Any,
    sharing: Sharing | Sequence[tuple[str, Sharing]] = expand,
    batch: int = 1,
    leave: Leave = (),
    rules: Mapping[type, Rule] | None = None,
    tolerance: float | None = 0.02,
    method: Callable[..., Any] | None = None,
    **kwargs: Any,
) -> Capture:
    """The layers of an nnx model, found by their types.

    The model itself is not changed: each call of `capture.apply` taps a copy. Works through `nnx.scan` and `nnx.vmap`
    over the first axis of the parameters of stacked layers.

    Args:
      model: any module.
      *args: an example of what it is called with.
      sharing: as in `precond.layers.linen.capture`.
      batch: likewise.
      leave: likewise.
      rules: more of `RULES`, for your own modules.
      tolerance: as in `precond.layers.linen.capture`.
      method: what is called, with the model first: `MyModel.encode`. None is the model itself.
      **kwargs: what else the model is called with.

    Returns:
      A `precond.layers.Capture`. Its parameters are those of `graph, params, rest = nnx.split(model, nnx.Param, ...)`.
      Its `apply` takes `params`, `rest` and the model's arguments, and returns the output and the new `rest`: for
      `precond.layers.value_grad_factors(..., has_aux=True)`. It has one more argument, `valid`, as that of
      `precond.layers.linen.capture`.

    Raises:
      ValueError: for parameters without factors that are not in `leave`, with the table of all.

    Examples:
      >>> from precond.layers import nnx as front
      >>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
      >>> print(front.capture(model, jnp.ones((4, 3))).coverage)
      layer  kind                 factors    bytes  no factors, because
             contraction, expand  4x4 + 2x2  80
      8 of 8 parameters have factors, of 80 bytes
    """
    table = {**RULES, **({} if rules is None else rules)}
    graph, state, rest = nnx.split(model, nnx.Param, ...)
    found, reasons = {}, {}
    modules = {"/".join(map(str, keys)): m for keys, m in nnx.iter_modules(model)}
    for path, m in modules.items():
        closed = [type(x).__name__ for at, x in modules.items() if isinstance(x, _CLOSED) and path.startswith(f"{at}/")]
        try:
            found[path] = _find(table, m, closed)
        except ValueError as why:
            reasons[path] = str(why)

    def bind(taps: Mapping[str, Tap]) -> Callable[..., Any]:
        def apply(params: Any, rest: Any, *args: Any, valid: Any = None, **kwargs: Any) -> tuple[Any, Any]:
            leaves = leaves_of(params)
            plain = jax.tree.unflatten(jax.tree.structure(state), [leaves[path] for path in leaves_of(state)])
            twin = nnx.merge(graph, plain, rest, copy=True)  # the variables too: a call may write to them
            for keys, m in list(nnx.iter_modules(twin)):
                path = "/".join(map(str, keys))
                if path in taps and PROBE in at(params, path):
                    _put(m, taps[path], at(params, path)[PROBE])
            token = _VALID.set((valid, used := []))
            try:
                out = (type(twin).__call__ if method is None else method)(twin, *args, **kwargs)
            finally:
                _VALID.reset(token)
            check_used(valid, used)
            return out, nnx.split(twin, nnx.Param, ...)[2]

        return apply

    def run(capture: Capture, params: Any) -> Any:
        return capture.apply(params, rest, *args, **kwargs)[0]

    return of_believed(found, reasons, state, bind, run, tolerance=tolerance, leave=leave, sharing=sharing, batch=batch)


def attached(model: nnx.Module, capture: Capture) -> Any:
    """The model, with a probe in each of its layers: for training loops that can pass no `factors=`.

    It is called as the model is, and the probes are parameters to `nnx.grad` and `nnx.Optimizer`. The gradient of a
    loss has the factors in it, for `precond.kfac` without `layers`.

    Args:
      model: of the capture.
      capture: from `capture`.

    Returns:
      A copy. Only what passes through the `__call__` of the model itself is counted.

    Examples:
      >>> import precond
      >>> from precond.layers import nnx as front
      >>> model, x = nnx.Linear(3, 2, rngs=nnx.Rngs(0)), jnp.ones((4, 3))
      >>> model = front.attached(model, front.capture(model, x))
      >>> optimizer = nnx.Optimizer(model, precond.kfac(1e-2), wrt=nnx.Param)
      >>> grads = nnx.grad(lambda model: jnp.mean(model(x) ** 2))(model)
      >>> updates = optimizer.update(model, grads)
    """
    twin = nnx.clone(model)
    probes = capture.probes(nnx.split(model, nnx.Param, ...)[1], count=True)
    for keys, m in list(nnx.iter_modules(twin)):
        path = "/".join(map(str, keys))
        if path in capture.taps:
            _put(m, capture.taps[path], probes[path])
    batches = [spec.batch for spec in capture.taps.values()]
    if batches:
        object.__setattr__(twin, "__class__", _counting_class(type(twin), batches[0]))
    return twin


@functools.cache
def _counting_class(cls: Any, batch: int) -> Any:
    """A subclass whose call counts examples for all probes in it."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = cls.__call__(self, *args, **kwargs)
        probes = [getattr(m, PROBE).get_value() for _, m in nnx.iter_modules(self) if hasattr(m, PROBE)]
        return tally(out, [probe.sums["examples"] for probe in probes], batch)

    return type(f"Counting{cls.__name__}", (cls,), {"__call__": call})


def _put(m: Any, spec: Tap, probe: Any) -> None:
    """Tap a module in place."""
    setattr(m, PROBE, ProbeParam(probe))
    object.__setattr__(m, "__class__", _tapped_class(type(m), spec))


def _find(table: Mapping[type, Rule], m: Any, closed: Sequence[str]) -> Found:
    rule = table.get(type(m))
    if rule is None:
        raise ValueError(f"no rule for {type(m).__name__}")
    if closed:
        raise ValueError(f"inside {closed[0]}, which takes all parameters there for weights")
    return rule(m)

"""Capture the layers of Flax nnx. It taps the layers of a copy of the model, and the copy lasts for one call."""

import contextvars
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

try:
    from flax import nnx
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "flax":  # Flax is there, and something that it needs is not
        raise
    raise ImportError(
        "precond.layers.nnx is for models of Flax, which is not installed. Write pip install 'precond[flax]'."
    ) from error

from precond.arguments import described
from precond.blocks import Probe, leaves_of
from precond.layers.assemble import LayerSpec
from precond.layers.capture import Capture
from precond.layers.check_rules import check_rules, spec_by
from precond.layers.convolutions import as_tuple, convolution, transposed_convolution
from precond.layers.count_examples import count_examples
from precond.layers.coverage import Uncovered
from precond.layers.front_end import bound, check_used, given_input, mask_fits, tapped
from precond.layers.kinds import Contraction, Embed, Scale, dense, einsum
from precond.layers.nested import PROBE, subtree
from precond.layers.sharing import Sharing, expand
from precond.layers.tap import Tap
from precond.layers.verified import verified
from precond.trees import Tree

__all__ = ["RULES", "ProbeParam", "attached", "capture"]

Rule = Callable[[Any], LayerSpec]
"""A function that makes a `LayerSpec` from a module; its ValueError says why the module cannot be tapped."""


class ProbeParam(nnx.Param):
    """Hold a layer's probe among its variables, as a parameter: a gradient by parameters holds its cotangent."""


def _general(m: nnx.LinearGeneral) -> LayerSpec:
    axes, features = as_tuple(m.axis), len(as_tuple(m.out_features))
    if any(a >= 0 for a in axes) or as_tuple(m.batch_axis or ()):
        raise ValueError("a LinearGeneral over axes counted from the front, or with batch axes")
    kind = Contraction(m.use_bias, axes, tuple(range(-features, 0)), weights="i" * len(axes) + "o" * features)
    return LayerSpec(kind, shape=(*as_tuple(m.in_features), *as_tuple(m.out_features)))


def _einsum(m: nnx.Einsum) -> LayerSpec:
    left = m.einsum_str.partition(",")[0].strip()
    kind = einsum(m.einsum_str, len(left.replace("...", "x").replace(" ", "")), m.bias is not None)
    return LayerSpec(kind, shape=tuple(m.kernel_shape))


def _norm(m: Any) -> LayerSpec:
    if m.scale is None or as_tuple(getattr(m, "feature_axes", getattr(m, "axis", -1))) != (-1,):
        raise ValueError("a norm without a scale, or with one along other axes than the last")
    features = getattr(m, "num_features", None)
    return LayerSpec(
        Scale(getattr(m, "bias", None) is not None), "scale", shape=None if features is None else (features,)
    )


RULES: Mapping[type, Rule] = {
    nnx.Linear: lambda m: LayerSpec(dense(m.use_bias), shape=(m.in_features, m.out_features)),
    nnx.LinearGeneral: _general,
    nnx.Einsum: _einsum,
    nnx.Conv: lambda m: LayerSpec(convolution(m), shape=tuple(m.kernel_shape)),
    nnx.ConvTranspose: lambda m: LayerSpec(transposed_convolution(m), shape=tuple(m.kernel_shape)),
    nnx.Embed: lambda m: LayerSpec(Embed(m.num_embeddings), "embedding", shape=(m.num_embeddings, m.features)),
    nnx.LayerNorm: _norm,
    nnx.RMSNorm: _norm,
    nnx.GroupNorm: _norm,
    nnx.BatchNorm: _norm,
}
"""Rules by the module's own type. A subclass may do anything, so it needs a rule of its own."""


_CLOSED = (nnx.SpectralNorm,)
"""Modules whose inner modules may carry no probes."""


def _normalised(cls: type, m: nnx.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> jax.Array:
    """Return the output of a norm without its scale and shift, from a copy: its call may update statistics."""
    twin: Any = nnx.merge(*nnx.split(m), copy=True)
    for name, value in (("scale", 1.0), ("bias", 0.0)):
        variable = getattr(twin, name, None)
        if variable is not None:
            variable[...] = jnp.full_like(variable[...], value)
    return cls.__call__(twin, *args, **kwargs)


_VALID: contextvars.ContextVar[tuple[jax.Array | None, list[bool]]] = contextvars.ContextVar(
    "valid", default=(None, [])
)
"""The mask of one call of `apply`, and for each tapped layer whether it fits."""


@functools.cache
def _tapped_class(cls: type, spec: Tap) -> type:
    """Return a subclass with another call. There is one for each tap, so that graphs with equal layers stay equal."""

    def call(self: Any, *args: Any, **kwargs: Any) -> jax.Array:
        y = cls.__call__(self, *args, **kwargs)
        signal = _normalised(cls, self, args, kwargs) if spec.kind.normalised else given_input(args, kwargs)
        valid, used = _VALID.get()
        used.append(mask_fits(valid, y))
        return tapped(spec, y, signal, getattr(self, PROBE).get_value(), valid)

    return type(f"Tapped{cls.__name__}", (cls,), {"__call__": call})


@described()
def capture(
    model: nnx.Module,
    *args: Any,
    sharing: Sharing | Sequence[tuple[str, Sharing]] = expand,
    batch: int = 1,
    allow_uncovered: Uncovered = (),
    rules: Mapping[type, Rule] | None = None,
    tolerance: float | None = 0.02,
    axis_name: str | Sequence[str] | None = None,
    method: Callable[..., Any] | None = None,
    **kwargs: Any,
) -> Capture:
    """Capture the layers of an nnx model, found by their types.

    The model itself is not changed: each call of `capture.apply` taps a copy. This works through `nnx.scan` and
    `nnx.vmap` over any axis of the parameters of stacked layers.

    Args:
      model: a module.
      *args: an example of its arguments. `nnx.Rngs` and other modules among them are copied in each call, as the model
        is, so that your own do not change. Two calls with the same `Rngs` draw the same numbers: pass `rngs.fork()`.
      sharing: as in `precond.layers.linen.capture`.
      batch: how many leading axes of the layers' inputs number the examples.
      allow_uncovered: paths of parameters that may have no factors: regular expressions, or a predicate.
      rules: more of `RULES`, for your own modules.
      tolerance: as in `precond.layers.linen.capture`.
      axis_name: as in `precond.layers.linen.capture`.
      method: the function to call, with the model as its first argument: `MyModel.encode`. None calls the model.
      **kwargs: keyword arguments of the model.

    Returns:
      A `precond.layers.Capture`. Its parameters are those of `graph, params, rest = nnx.split(model, nnx.Param, ...)`.
      Its `apply` takes `params`, `rest` and the model's arguments, and returns the output and the new `rest`: for
      `precond.layers.value_grad_factors(..., has_aux=True)`. It has one more argument: `valid`, a mask
      `[examples, tokens]` of the positions that are not padding, for all layers whose outputs have those axes.

    Raises:
      ValueError: if a parameter has no factors and is not in `allow_uncovered`; the error shows the table. If the
        model uses an axis that is not in `axis_name`.

    Examples:
      >>> from precond.layers import nnx as front
      >>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
      >>> print(front.capture(model, jnp.ones((4, 3))).coverage)
      layer  kind                 factors    bytes  no factors, because
             contraction, expand  4x4 + 2x2  80
      8 of 8 parameters have factors, of 80 bytes
    """
    check_rules(rules)
    table = {**RULES, **({} if rules is None else rules)}
    graph, state, rest = nnx.split(model, nnx.Param, ...)
    specs, reasons = {}, {}
    modules = {"/".join(map(str, keys)): m for keys, m in nnx.iter_modules(model)}
    for path, m in modules.items():
        closed = [type(x).__name__ for p, x in modules.items() if isinstance(x, _CLOSED) and path.startswith(f"{p}/")]
        try:
            specs[path] = _spec_of(table, m, closed)
        except ValueError as why:
            reasons[path] = str(why)

    def bind(taps: Mapping[str, Tap]) -> Callable[..., Any]:
        def apply(
            params: Tree, rest: Tree, *args: Any, valid: jax.Array | None = None, **kwargs: Any
        ) -> tuple[Any, Any]:
            leaves = leaves_of(params)
            plain = jax.tree.unflatten(jax.tree.structure(state), [leaves[path] for path in leaves_of(state)])
            try:
                twin = nnx.merge(graph, plain, rest, copy=True)  # the variables too: a call may write to them
            except ValueError as error:
                raise ValueError(
                    f"rest= has other variables than the model: give the last of nnx.split(model, nnx.Param, ...), and "
                    f"what apply(params, rest, ..) returned from then on. ({error})"
                ) from error
            for keys, m in list(nnx.iter_modules(twin)):
                path = "/".join(map(str, keys))
                if path in taps and PROBE in subtree(params, path):
                    _put(m, taps[path], subtree(params, path)[PROBE])
            args, kwargs = _copied((args, kwargs))
            token = _VALID.set((valid, used := []))
            try:
                out = (type(twin).__call__ if method is None else method)(twin, *args, **kwargs)
            finally:
                _VALID.reset(token)
            check_used(valid, used)
            return out, nnx.split(twin, nnx.Param, ...)[2]

        return apply

    def run(capture: Capture, params: Tree) -> Tree:
        try:
            return capture.apply(params, rest, *args, **kwargs)[0]
        except TypeError as error:
            raise TypeError(
                f"model(*args, **kwargs) failed: {error}. Give capture() an example of what the model is called with."
            ) from error

    return verified(
        specs,
        reasons,
        state,
        bind,
        bound(axis_name, run),
        given={"model": nnx.state(model), "arguments": (args, kwargs)},
        tolerance=tolerance,
        allow_uncovered=allow_uncovered,
        sharing=sharing,
        batch=batch,
    )


@described()
def attached(model: nnx.Module, capture: Capture) -> Any:
    """Return a copy of the model with a probe in each of its layers, for training loops that can pass no `factors=`.

    Call the copy as you call the model. The probes are parameters to `nnx.grad` and `nnx.Optimizer`, and the gradient
    of a loss holds the factors, for `precond.kfac` without `layers`.

    Args:
      model: the model of the capture.
      capture: the result of `capture`.

    Returns:
      The copy. It counts the examples of calls of the model itself, not of its other methods.

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
def _counting_class(cls: type, batch: int) -> type:
    """Return a subclass whose call counts examples for all probes in it."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = cls.__call__(self, *args, **kwargs)
        probes = [getattr(m, PROBE).get_value() for _, m in nnx.iter_modules(self) if hasattr(m, PROBE)]
        return count_examples(out, [probe.sums["examples"] for probe in probes], batch)

    return type(f"Counting{cls.__name__}", (cls,), {"__call__": call})


def _put(m: nnx.Module, spec: Tap, probe: Probe) -> None:
    """Tap a module in place."""
    setattr(m, PROBE, ProbeParam(probe))
    object.__setattr__(m, "__class__", _tapped_class(type(m), spec))


def _is_node(x: object) -> bool:
    return isinstance(x, nnx.Pytree | nnx.Variable)


def _copied(given: Any) -> Any:
    """Return arguments with copies of the modules, random streams and variables in them, which a call may write to."""
    nodes = any(map(_is_node, jax.tree.leaves(given, is_leaf=_is_node)))
    return nnx.merge(*nnx.split(given), copy=True) if nodes else given


def _spec_of(table: Mapping[type, Rule], m: Any, closed: Sequence[str]) -> LayerSpec:
    """Return what a module's rule finds, or raise the reason why it is not tapped."""
    rule = table.get(type(m))
    if rule is None:
        raise ValueError(f"no rule for {type(m).__name__}")
    if closed:
        raise ValueError(f"inside {closed[0]}, which takes all parameters there for weights")
    return spec_by(rule, m)

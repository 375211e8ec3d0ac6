"""Capture the layers of Flax linen. An interceptor taps unmodified models, and their parameters carry the probes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

try:
    import flax.linen as nn
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "flax":  # Flax is there, and something that it needs is not
        raise
    raise ImportError(
        "precond.layers.linen is for models of Flax, which is not installed. Write pip install 'precond[flax]'."
    ) from error
import jax

from precond.arguments import described
from precond.layers.assemble import LayerSpec
from precond.layers.capture import Capture, counted
from precond.layers.check_rules import check_rules, spec_by
from precond.layers.convolutions import as_tuple, convolution, transposed_convolution
from precond.layers.coverage import Uncovered
from precond.layers.front_end import bound, check_used, given_input, mask_fits, tapped
from precond.layers.kinds import Contraction, Embed, Scale, dense, einsum
from precond.layers.nested import PROBE
from precond.layers.sharing import Sharing, expand
from precond.layers.tap import Tap
from precond.layers.verified import verified
from precond.trees import Tree

__all__ = ["RULES", "capture"]

Rule = Callable[[Any, jax.Array, tuple[Any, ...]], LayerSpec]
"""A function that makes a `LayerSpec` from a module, its input and all its positional arguments.

Its ValueError says why the module cannot be tapped."""


def _general(m: nn.DenseGeneral, x: jax.Array, args: tuple[Any, ...]) -> LayerSpec:
    del args
    axes, batch, features = as_tuple(m.axis), as_tuple(m.batch_dims), len(as_tuple(m.features))
    axes = tuple(i % x.ndim - x.ndim for i in axes)
    # The output's axes are those of the batch, then the shared ones, then the features.
    groups = tuple(i % x.ndim - (x.ndim - len(axes) + features) for i in batch)
    roles = "g" * len(batch) + "i" * len(axes) + "o" * features
    inner = tuple(i % x.ndim - x.ndim for i in batch)
    return LayerSpec(Contraction(m.use_bias, axes, tuple(range(-features, 0)), inner, groups, roles))


def _einsum(m: nn.Einsum, x: jax.Array, args: tuple[Any, ...]) -> LayerSpec:
    text = m.einsum_str if m.einsum_str is not None else args[1]
    return LayerSpec(einsum(text, x.ndim, m.use_bias))


def _norm(m: Any, x: jax.Array, args: tuple[Any, ...]) -> LayerSpec:
    del args
    axis = getattr(m, "feature_axes", getattr(m, "axis", -1))
    if not m.use_scale or any(i % x.ndim != x.ndim - 1 for i in as_tuple(axis)):
        raise ValueError("a norm without a scale, or with one along other axes than the last")
    return LayerSpec(Scale(getattr(m, "use_bias", False)), "scale")


RULES: Mapping[type, Rule] = {
    nn.Dense: lambda m, x, args: LayerSpec(dense(m.use_bias)),
    nn.DenseGeneral: _general,
    nn.Einsum: _einsum,
    nn.Conv: lambda m, x, args: LayerSpec(convolution(m)),
    nn.ConvTranspose: lambda m, x, args: LayerSpec(transposed_convolution(m)),
    nn.Embed: lambda m, x, args: LayerSpec(Embed(m.num_embeddings), "embedding"),
    nn.LayerNorm: _norm,
    nn.RMSNorm: _norm,
    nn.GroupNorm: _norm,
    nn.BatchNorm: _norm,
}
"""Rules by the module's own type. A subclass may do anything, so it needs a rule of its own."""


_CLOSED = (nn.SpectralNorm,)
"""Modules whose inner modules may carry no probes."""


def _normalised(m: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> jax.Array:
    """Return the output of a norm without its scale and shift."""
    plain = {name: False for name in ("use_scale", "use_bias") if hasattr(m, name)}
    state = {k: v for k, v in m.variables.items() if k != "params"}
    return m.clone(parent=None, name=None, **plain).apply(state, *args, **kwargs, mutable=list(state))[0]


@described()
def capture(
    model: nn.Module,
    variables: Mapping[str, Any],
    *args: Any,
    sharing: Sharing | Sequence[tuple[str, Sharing]] = expand,
    batch: int = 1,
    allow_uncovered: Uncovered = (),
    rules: Mapping[type, Rule] | None = None,
    tolerance: float | None = 0.02,
    axis_name: str | Sequence[str] | None = None,
    **kwargs: Any,
) -> Capture:
    """Capture the layers of a linen model, by calling it once on an example.

    This works through `jax.jit`, `nn.scan` and `nn.vmap` over any axis of the parameters, `nn.remat`, `nn.RNN` and
    microbatches, since the probes are parameters.

    Args:
      model: a module, without changes.
      variables: the result of `model.init`.
      *args: an example of the arguments of the model.
      sharing: `precond.layers.expand` or `precond.layers.reduce`, or pairs of a regular expression and one of them.
        The first expression that is found in a layer's path decides; a layer without one expands.
      batch: how many leading axes of the layers' inputs number the examples; 0 for a model of one example that is
        mapped by `jax.vmap`.
      allow_uncovered: paths of parameters that may have no factors: regular expressions, or a predicate.
      rules: more of `RULES`, for your own modules.
      tolerance: the tolerance of the self-check. A layer has no factors if the gradient that its signals make is
        further from autodiff's, as a part of its length. None does not check, for variables or arguments that are only
        shapes.
      axis_name: the name of the axis, or of the axes, over which the model averages in its training under `jax.pmap`,
        `jax.vmap` or `jax.shard_map`, as `BatchNorm(axis_name="batch")` does: the example is then one device's.
      **kwargs: as for `model.apply`: `rngs`, `mutable`, `method`, and keyword arguments of the model.

    Returns:
      A `precond.layers.Capture`. Its `apply` is `model.apply` with taps, and has one more argument: `valid`, a mask
      `[examples, tokens]` of the positions that are not padding, for all layers whose outputs have those axes.

    Raises:
      ValueError: if a parameter has no factors and is not in `allow_uncovered`; the error shows the table. If the
        model uses an axis that is not in `axis_name`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond.layers import linen
      >>> model, x = nn.Sequential([nn.Dense(3), nn.tanh, nn.Dense(2)]), jnp.ones((4, 5))
      >>> variables = model.init(jax.random.key(0), x)
      >>> print(linen.capture(model, variables, x).coverage)
      layer     kind                 factors    bytes  no factors, because
      layers_0  contraction, expand  6x6 + 3x3  180
      layers_2  contraction, expand  4x4 + 2x2  80
      26 of 26 parameters have factors, of 260 bytes
    """
    if "params" not in variables:
        raise ValueError("variables= has no 'params': pass what model.init returned, {'params': ..}, and not its part.")
    check_rules(rules)
    table = {**RULES, **({} if rules is None else rules)}
    specs: dict[str, LayerSpec] = {}
    reasons: dict[str, str] = {}
    around = [""]

    def record(next_fun: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any], context: Any) -> Any:
        m, path = context.module, "/".join(context.module.path)
        around.append(type(m).__name__ if isinstance(m, _CLOSED) else around[-1])
        y = next_fun(*given, **named)
        closed = around.pop()
        if "params" not in m.variables or path in specs:
            return y
        if context.method_name == "__call__":
            try:
                specs[path] = _spec_of(table, m, given_input(given, named), given, closed)
            except ValueError as why:
                reasons[path] = str(why)
        elif type(m) in table and context.method_name != "setup":
            reasons.setdefault(path, f"{context.method_name}() alone uses it")
        return y

    leaves, treedef = jax.tree.flatten((args, kwargs))
    shapes = {i: x for i, x in enumerate(leaves) if isinstance(x, jax.ShapeDtypeStruct)}

    def visit(variables: Any, arrays: dict[int, Any]) -> Tree:
        given, named = treedef.unflatten([arrays.get(i, x) for i, x in enumerate(leaves)])
        with nn.intercept_methods(record):
            return model.apply(variables, *given, **named)

    def bind(taps: Mapping[str, Tap]) -> Callable[..., Any]:
        def apply(variables: Mapping[str, Any], *args: Any, valid: jax.Array | None = None, **kwargs: Any) -> Any:
            return _apply(model, table, taps, variables, args, valid, kwargs)

        return apply

    def run(capture: Capture, params: Tree) -> Tree:
        return capture.apply({**variables, "params": params}, *args, **kwargs)

    try:
        jax.eval_shape(bound(axis_name, visit), variables, shapes)
    except (TypeError, IndexError, KeyError, AttributeError) as error:
        raise TypeError(
            f"model.apply(variables, *args, **kwargs) failed: {error}. Give capture() an example of what the model is "
            f"called with; kwargs= has {', '.join(kwargs) or 'nothing'}."
        ) from error
    return verified(
        specs,
        reasons,
        variables["params"],
        bind,
        bound(axis_name, run),
        given={"variables": variables, "arguments": (args, kwargs)},
        tolerance=tolerance,
        allow_uncovered=allow_uncovered,
        sharing=sharing,
        batch=batch,
    )


def _spec_of(table: Mapping[type, Rule], m: nn.Module, x: jax.Array, args: tuple[Any, ...], closed: str) -> LayerSpec:
    """Return what a module's rule finds, or raise the reason why it is not tapped."""
    rule = table.get(type(m))
    if rule is None:
        raise ValueError(f"no rule for {type(m).__name__}")
    if closed:
        raise ValueError(f"inside {closed}, which takes all parameters there for weights")
    spec = spec_by(rule, m, x, args)
    shape = tuple(jax.tree.leaves(m.variables["params"][spec.weights])[0].shape)
    if spec.kind.layer("", None, shape).layer_ndim != 0:
        raise ValueError("its weights have more axes than its rule knows")
    return spec._replace(shape=shape)


def _apply(
    model: nn.Module,
    table: Mapping[type, Rule],
    taps: Mapping[str, Tap],
    variables: Mapping[str, Any],
    args: tuple[Any, ...],
    valid: jax.Array | None,
    kwargs: dict[str, Any],
) -> Any:
    """Call the model with its taps in place."""
    used = []

    def insert(next_fun: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any], context: Any) -> Any:
        y, m = next_fun(*given, **named), context.module
        path = "/".join(m.path)
        here = context.method_name == "__call__" and path in taps and type(m) in table
        if not (here and m.has_variable("params", PROBE)):
            return y
        spec = taps[path]
        x = _normalised(m, given, named) if spec.kind.normalised else given_input(given, named)
        used.append(mask_fits(valid, y))
        return tapped(spec, y, x, m.get_variable("params", PROBE), valid)

    with nn.intercept_methods(insert):
        out = model.apply(variables, *args, **kwargs)
    check_used(valid, used)
    return counted(taps, variables["params"], out)

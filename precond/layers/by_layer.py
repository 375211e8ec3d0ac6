"""Give factors of layers to a transformation of stacks, which needs them by stack."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from precond.arguments import MissingArgumentError, check_transformation, described, shown
from precond.blocks import BlockInfo, Layer, LayerFactors, check_layers, info_of

__all__ = ["by_layer"]


@described()
def by_layer(inner: optax.GradientTransformation, layers: Mapping[str, Layer]) -> optax.GradientTransformationExtraArgs:
    """Give a transformation of stacks the factors that the caller passes by layer as the extra argument `factors`.

    It stands inside `precond.blocked(.., block_size=None, views=precond.views.layers(layers))`. The factors reach
    `inner` as `precond.BlockInfo.factors`, in the order of the blocks. If all layers have second moments, these follow
    as `precond.BlockInfo.captured_moments`.

    Args:
      inner: a transformation of stacks; `precond.scale_by_kronecker` with the statistics of K-FAC.
      layers: `capture.layers`.

    Returns:
      A transformation of stacks. Its `update` needs `factors=`: what was captured, or None for a step in which nothing
      was.

    Raises:
      TypeError: for anything but layers by name; in `update` without `factors`.
      ValueError: in `update` for factors of other layers, for blocks that are not whole layers, and for factors outside
        of `precond.blocked`.

    Examples:
      >>> import precond
      >>> layers = {"dense": Layer("kernel", "bias", 0, (2, 3), (), (0,), (1,))}
      >>> tx = precond.blocked(
      ...     by_layer(optax.normalize_by_update_norm(), layers),
      ...     block_size=None,
      ...     views=precond.views.layers(layers),
      ... )
      >>> params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
      >>> updates, _ = tx.update(params, tx.init(params), factors=None)
      >>> round(float(jnp.sum(updates["bias"] ** 2)), 4)  # of the whole matrix it is 1
      0.3333
    """
    check_transformation("inner", inner)
    check_layers(layers)
    inner = optax.with_extra_args_support(inner)

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        blocks: BlockInfo | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        if "factors" not in extra:
            near = difflib.get_close_matches("factors", extra, 1, 0.8)
            raise MissingArgumentError(
                "K-FAC's update needs factors=: what precond.layers.value_grad_factors returns, or None in a step in "
                "which no factors were captured." + "".join(f" It was given {name}=." for name in near)
            )
        info, factors = info_of(blocks), extra["factors"]
        if factors is not None:
            _check_factors(factors)
            if info.origins is None:
                raise ValueError(
                    "precond.by_layer() was given factors outside of precond.blocked, which tells it the layers "
                    "of its blocks. Write precond.blocked(by_layer(..), block_size=None, views=..), or precond.kfac."
                )
            info = _with_factors(info, layers, factors, updates)
        return inner.update(updates, state, params, **extra, blocks=info)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _check_factors(factors: object) -> None:
    """Raise for anything but a mapping from layers to factors, such as for gradients."""
    good = isinstance(factors, Mapping) and all(isinstance(x, tuple | list) and len(x) >= 2 for x in factors.values())
    if not good:
        raise TypeError(
            f"factors={shown(factors)}: must be the factors by layer, which are the third result of "
            f"precond.layers.value_grad_factors(..)(params, ..), or None in a step without them."
        )


def _with_factors(info: BlockInfo, layers: Mapping[str, Layer], factors: Mapping[str, Any], stacks: Any) -> BlockInfo:
    by_path, origins = _by_path(layers, factors), info.origins or {}
    present = {origin.path for of_stack in origins.values() for origin in of_stack}
    if missing := sorted(present - set(by_path)):
        raise ValueError(f"factors= has none for the layers of {missing}: it is of another capture.")
    if cut := sorted(origin.path for of_stack in origins.values() for origin in of_stack if not origin.whole):
        raise ValueError(f"The layers of {cut} are cut into blocks, but their factors are not: give block_size=None.")
    _check_sizes(layers, by_path, present)
    _check_bases(layers, factors, present)

    def of(name: str, columns: Callable[[LayerFactors, int], Sequence[jax.Array | None]]) -> Any:
        length, inputs, *_ = stacks[name].shape
        rows = [columns(by_path[origin.path], inputs) for origin in origins[name]]
        length *= info.collectives.count
        return tuple(None if column[0] is None else _stack(column, length) for column in zip(*rows, strict=True))

    def seen(factors: LayerFactors, inputs: int) -> tuple[jax.Array | None, ...]:
        return (None if factors.moments is None else factors.moments[:, :inputs],)

    placed, moments = {name: of(name, _columns) for name in origins}, None
    if all(by_path[path].moments is not None for path in present):
        moments = {name: of(name, seen)[0] for name in origins}
    return info._replace(factors=info.collectives.local(placed), captured_moments=info.collectives.local(moments))


def _by_path(layers: Mapping[str, Layer], factors: Mapping[str, Any]) -> dict[str, LayerFactors]:
    """Return the factors by the path of the weights; those of a bias that is read by itself by its own path."""
    out = {}
    for name, layer in layers.items():
        if name in factors:
            out[layer.kernel] = one = LayerFactors(*factors[name])
            if layer.positions is not None and layer.bias is not None:
                out[layer.bias] = LayerFactors(one.outputs, None)
    return out


def _columns(factors: LayerFactors, inputs: int) -> tuple[jax.Array | None, ...]:
    """Return the factors of each axis; those of the inputs have one row too many if the bias is not trained."""
    if isinstance(factors.inputs, tuple | list):  # of a doubly factored layer
        return *factors.inputs, factors.outputs
    own = jnp.asarray(factors.inputs)
    return own[:, :inputs] if own.ndim == 2 else own[:, :inputs, :inputs], factors.outputs


def _stack(column: Sequence[jax.Array], length: int) -> jax.Array:
    """Lay factors one behind another, and zeros behind them."""
    rows = list(column)
    if more := length - sum(len(x) for x in rows):
        rows.append(jnp.zeros((more, *rows[0].shape[1:]), rows[0].dtype))
    return jnp.concatenate(rows)


def _check_sizes(layers: Mapping[str, Layer], by_path: Mapping[str, LayerFactors], present: set[str]) -> None:
    """Raise for factors of a layer of another size."""
    for name, layer in layers.items():
        if layer.kernel not in present or layer.positions is not None:
            continue
        factors, (_, *sides) = by_path[layer.kernel], layer.size
        found = [None if x is None else x.shape[-1] for x in (factors.inputs, factors.outputs)]
        pairs = zip((factors.inputs, factors.outputs), sides, strict=True)
        if alone := [x.shape for x, side in pairs if x is not None and (x.ndim < 2 or x.shape == (side, side))]:
            raise ValueError(
                f"factors= has an array of shape {alone[0]} for the layer {name!r}, where a stack of matrices or "
                f"diagonals belongs: pass factors as the capture returned them."
            )
        if any(d is not None and d != side for d, side in zip(found, sides, strict=True)):
            raise ValueError(
                f"factors= has for the layer {name!r} those of {found[0]} inputs and {found[1]} outputs, where it has "
                f"{sides[0]} and {sides[1]} (a bias counts as an input): they are of another layer or another model."
            )


def _check_bases(layers: Mapping[str, Layer], factors: Mapping[str, Any], present: set[str]) -> None:
    """Raise if some layers have second moments that may be in the bases of others.

    A capture finds the bases of a layer by its place among equal ones, so that all of these must be trained here.
    """

    def measured(trained: bool) -> dict[str, Any]:
        found = {
            n: LayerFactors(*x) for n, x in factors.items() if (n in layers and layers[n].kernel in present) == trained
        }
        return {
            name: (x.moments.shape[1:], x.inputs.ndim, x.outputs is None)
            for name, x in found.items()
            if x.moments is not None
        }

    mine = set(measured(True).values())
    if more := sorted(name for name, kind in measured(False).items() if kind in mine):
        raise ValueError(
            f"factors= have second moments of {more}, which are not trained here, though equal layers are. The bases "
            f"they were measured in are mistaken for one another: capture with those trained, capture._replace("
            f"layers=..)."
        )

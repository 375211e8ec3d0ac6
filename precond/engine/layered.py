"""From the parameters of layers to stacks of matrices and back: `blocked` for K-FAC."""

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from precond.blocks import (
    BlockInfo,
    Factors,
    Layer,
    Layout,
    check_layers,
    join_layers,
    layers_in_stacks,
    layout_of_layers,
    path_name,
    present_layers,
    tell_layers,
    view_of_layer,
    without_info,
)
from precond.eager import compiled_if_eager
from precond.engine.blocked import BlockedState, all_skipped
from precond.engine.in_band import has_probes, in_band
from precond.engine.joining import Joining, joining
from precond.engine.route import come_divided
from precond.engine.skip_nonfinite import skip_nonfinite
from precond.engine.stacked import stacked
from precond.mesh import Sharded, as_sharded, as_typed, find_place, local_arrays

__all__ = ["layered"]


def layered(
    inner: optax.GradientTransformation,
    layers: Mapping[str, Layer] | None,
    *,
    otherwise: optax.GradientTransformation | None = None,
    skipped: float = 0.0,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Run a transformation on stacks of layers: weights and bias of each as one matrix `[inputs, outputs]`.

    It does what `precond.blocked` does, with two differences. A bias is the last row of its layer's matrix. And the
    factors of the layers, which the caller passes by layer as the extra argument `factors`, reach `inner` by stack, as
    `precond.BlockInfo.factors`; if all of them have second moments, these follow as `moments`. A layer is left out if
    the tree has no parameters of it, as in another group of `optax.partition`; a bias may be missing alone.

    Args:
      inner: any transformation of stacks; `precond.scale_by_kronecker` with K-FAC's statistics.
      layers: from a capture of `precond.layers`. None takes layers and factors from the parameters' own probes, for
        training loops that can pass no `factors=`: `precond.in_band`.
      otherwise: for all other parameters. None is `optax.scale_by_adam()`.
      skipped: as in `precond.blocked`.
      axis: mesh axes over whose devices layers are divided, with their factors and inverses, as in `precond.blocked`.
        Factors come whole, and are those of the whole batch; gradients may come divided.
      mesh: as in `precond.blocked`.

    Returns:
      A transformation of parameters. Its `update` needs `factors=`: what was captured, or None for a step in which
      nothing was.

    Raises:
      TypeError: for layers that are none; in `update` without `factors`.
      ValueError: in `init` where the parameters have leaves but none of these layers, or the bias of one without its
        weights, or probes beside layers that are given; in `update` for factors of other layers.

    Examples:
      >>> layers = {"dense": Layer("kernel", "bias", 0, (2, 3), (), (0,), (1,))}
      >>> tx = layered(optax.normalize_by_update_norm(), layers)
      >>> params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
      >>> updates, _ = tx.update(params, tx.init(params), factors=None)
      >>> round(float(jnp.sum(updates["bias"] ** 2)), 4)  # of the whole matrix it is 1
      0.3333
    """
    if layers is None:
        return in_band(functools.partial(layered, inner, otherwise=otherwise, skipped=skipped, axis=axis, mesh=mesh))

    check_layers(layers)
    # What has factors of its own: the layers, and the bias of one that is doubly factored.
    blocks = {part: layer for name, whole in layers.items() for part, layer in whole.blocks(name).items()}
    how = as_sharded(axis)
    owned = {path for layer in blocks.values() for path in (layer.kernel, layer.bias)}
    otherwise = optax.scale_by_adam() if otherwise is None else otherwise
    first = stacked(
        inner,
        block_size=None,
        views=lambda name, leaf: view_of_layer(blocks[name]),
        skipped=skipped,
        axis=how,
        mesh=mesh,
    )
    second = optax.masked(
        skip_nonfinite(otherwise, skipped=skipped),
        lambda tree: jax.tree_util.tree_map_with_path(lambda path, _: path_name(path) not in owned, tree),
    )

    leaves_of = functools.partial(_leaves_of, owned)

    def joining_of(leaves: Any) -> Joining:
        place = find_place(how, mesh, leaves)
        if place is None or not come_divided(place, how, list(leaves.values())):
            return joining(blocks, leaves, None)
        return joining(blocks, leaves, place.over(place.levels[0]))

    def init(params: Any) -> BlockedState:
        if has_probes(params):
            raise ValueError("The parameters carry probes: leave layers= out, or give them without (capture.detach).")
        leaves = leaves_of(params)

        def join(leaves: Any) -> dict[str, jax.Array]:
            return join_layers(blocks, local_arrays(leaves))

        matrices = jax.eval_shape(join, leaves)
        if not matrices and jax.tree.leaves(params):
            raise ValueError(
                "None of the layers= is among the parameters. Give init what the capture was made of: the parameters "
                "alone, not {'params': ..}, and without probes."
            )
        with tell_layers(present_layers(blocks, leaves), leaves):
            if how.axis is None or not all(isinstance(x, jax.Array) for x in leaves.values()):
                stacks = first.init(matrices)
            else:  # the mesh is known from arrays; nothing else of them is looked at, so that jit makes no matrix
                stacks = jax.jit(lambda leaves: first.init(join(leaves)))(leaves)
        return BlockedState(stacks, second.init(params), jnp.zeros([], jnp.int32))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        if "factors" not in extra:
            raise TypeError(
                "K-FAC's update needs factors=: what precond.layers.value_grad_factors returns, or None in a step in "
                "which no factors were captured."
            )
        extra = without_info(extra)
        leaves, factors = leaves_of(updates), local_arrays(extra["factors"])
        joined, mine = joining_of(leaves), None
        matrices, info = joined.matrices(leaves), BlockInfo()
        if params is not None:
            mine = joined.matrices({path: x for path, x in leaves_of(params).items() if path in leaves})
        if factors is not None:
            present = present_layers(blocks, leaves)
            _check_bases(factors, present)
            layout = layout_of_layers(blocks, matrices, how.multiple)
            info = _captured(layout, sorted(matrices), present, _of_blocks(layers, factors))
        moved, stacks = first.update(matrices, state.stacks, mine, **(extra | {"blocks": info}))
        out, rest = second.update(updates, state.otherwise, params, **extra)
        skipped = all_skipped(state, stacks, rest, bool(matrices), len(leaves) < len(jax.tree.leaves(updates)))
        return _merge(out, updates, joined.parameters(moved)), BlockedState(stacks, rest, state.steps_skipped + skipped)

    return compiled_if_eager(optax.GradientTransformationExtraArgs(init, update))


def _leaves_of(owned: Collection[str | None], tree: Any) -> dict[str, Any]:
    """The leaves of a tree that belong to layers, by path."""
    named = [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]
    return {name: leaf for name, leaf in named if name in owned}


def _captured(
    layout: Layout, names: Sequence[str], layers: Mapping[str, Layer], factors: Mapping[str, Factors]
) -> BlockInfo:
    """What the inner transformation is told of factors that come by layer."""
    stacks, moments = (of(layout, names, layers, factors) for of in (_stacks, _moments))
    return BlockInfo(factors=stacks, moments=moments)


def _merge(out: Any, updates: Any, done: Mapping[str, Any]) -> Any:
    """A tree with the leaves of layers in their places, each leaf sharded as its gradient is."""

    def one(path: Any, x: Any, like: Any) -> Any:
        return as_typed(done.get(path_name(path), x), like)

    return jax.tree_util.tree_map_with_path(one, out, updates)


def _check_bases(factors: Mapping[str, Any], trained: Mapping[str, Layer]) -> None:
    """A capture finds the bases of a layer by its place among equals, so that none of these may be of other layers."""

    def measured(own: bool) -> dict[str, Any]:
        found = {name: Factors(*x) for name, x in factors.items() if (name in trained) == own}
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


def _of_blocks(layers: Mapping[str, Layer], factors: Mapping[str, Any]) -> dict[str, Factors]:
    """The factors of blocks, from those of layers."""
    there = {name: layer for name, layer in layers.items() if name in factors}
    return {k: v for name, layer in there.items() for k, v in Factors(*factors[name]).blocks(name, layer).items()}


def _stacks(layout: Layout, names: Sequence[str], layers: Mapping[str, Layer], factors: Mapping[str, Any]) -> Any:
    """The factors of layers in the order of their matrices in the stacks."""
    missing = set(names) - set(factors)
    if missing:
        raise ValueError(f"factors= has none for the layers {sorted(missing)}: it is of another capture.")

    def of(name: str) -> tuple[jax.Array | None, ...]:
        layer, (inputs, outputs, _) = layers[name], factors[name]
        if layer.positions is not None:
            return (*inputs, outputs)
        rows = layer.size[1]  # fewer than the factor has where the bias is not there
        return inputs[:, :rows] if layer.diagonal else inputs[:, :rows, :rows], outputs

    out = {}
    for name, there in layers_in_stacks(layout, list(names)):
        members = [of(layer) for layer, _ in there]
        padding = layout.stacks[name].shape[0] - layout.blocks[name]
        columns = zip(*members, strict=True)
        out[name] = tuple(None if column[0] is None else _joined(column, padding) for column in columns)
    return out


def _moments(layout: Layout, names: Sequence[str], layers: Mapping[str, Layer], factors: Mapping[str, Any]) -> Any:
    """The second moments of layers as stacks; None where some layer has none."""
    if any(Factors(*factors[name]).moments is None for name in names):
        return None
    return layout.pack([factors[name].moments[:, : layers[name].size[1]] for name in names])


def _joined(factors: Sequence[jax.Array], padding: int) -> jax.Array:
    """One stack of factors, and zeros that make its length what it is to be."""
    zeros = [jnp.zeros((padding, *factors[0].shape[1:]), factors[0].dtype)] if padding else []
    return jnp.concatenate([*factors, *zeros])

"""Return the eigenbases that an optimizer has of each layer, from its state."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import AxisType

from precond.blocks import Layer, Layout, check_matrices, layout_of, leaves_of, path_name, spread_layer_axes, views
from precond.boxes import unboxed
from precond.mesh import replicate
from precond.roots import Checked, RootState
from precond.roots.corrected_inverse import MeasuredMoment
from precond.trees import Tree, varying

__all__ = ["bases_of"]


def bases_of(state: optax.OptState, layers: Mapping[str, Layer], params: Tree) -> dict[str, dict[str, jax.Array]]:
    """Return the eigenbases that `precond.ekfac` has of each layer.

    Args:
      state: the state of the optimizer, which may be chained or wrapped.
      layers: the layers that the optimizer was given.
      params: the parameters that it was given.

    Returns:
      By layer `inputs` and `outputs`, in the shapes of a probe's factors, `[.., i, i]` and `[.., o, o]`. An axis with a
      diagonal factor or without one has no basis.

    Raises:
      ValueError: if a layer is doubly factored, if the state has no bases of these layers, or if it has them divided
        over several axes of a `shard_map`.

    Examples:
      >>> import precond
      >>> layers = {"": Layer("kernel", None, 0, (2, 3), (), (0,), (1,))}
      >>> params = {"kernel": jnp.ones((2, 3))}
      >>> found = bases_of(precond.ekfac(0.1, layers).init(params), layers, params)
      >>> found[""]["inputs"].tolist(), found[""]["outputs"].shape
      ([[1.0, 0.0], [0.0, 1.0]], (3, 3))
    """
    check_matrices(layers)
    leaves, layout = leaves_of(params), layout_of(params, views.layers(layers), None)
    names, roots = {layer.kernel: name for name, layer in layers.items()}, _roots(unboxed(state), layout)
    out: dict[str, dict[str, jax.Array]] = {name: {} for name, layer in layers.items() if layer.kernel in leaves}
    for stack, origins in layout.origins().items():
        for part, basis in zip(("inputs", "outputs"), roots[stack].derived, strict=True):
            if not isinstance(basis, Checked):
                continue
            whole, start = _whole(basis.matrix, layout.blocks[stack]), 0
            for origin in origins:
                name, one, start = names[origin.path], whole[start : start + origin.blocks], start + origin.blocks
                one = _with_bias(one, layers[name].size[1]) if part == "inputs" else one
                out[name][part] = _as_in_probe(one, layers[name], tuple(leaves[origin.path].shape))
    return out


def _as_in_probe(one: jax.Array, layer: Layer, shape: tuple[int, ...]) -> jax.Array:
    """Return the bases of a layer's matrices, `[L, d, d]`, in the shape of a probe's factors."""
    layers, some = layer.layer_sizes(shape), [layer.size[0]] if layer.groups else []
    if layer.layer_axes is None:
        return one.reshape(*layers, *some, *one.shape[1:])
    sizes, order = [*layers, *(layer.shape[i] for i in layer.groups)], layer.batch_order
    own = range(len(order), len(order) + one.ndim - 1)
    read = one.reshape(*(sizes[k] for k in order), *one.shape[1:])
    read = read.transpose(*sorted(range(len(order)), key=order.__getitem__), *own)
    return spread_layer_axes(read.reshape(*layers, *some, *one.shape[1:]), layer.layer_axes, len(shape))


def _is_root(x: object) -> bool:
    return isinstance(x, RootState)


def _found(tree: optax.OptState) -> Iterator[tuple[str, RootState]]:
    """Yield the roots of EK-FAC by stack, without those of other systems in the same state."""
    for path, x in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_root)[0]:
        if _is_root(x) and isinstance(x.moments, MeasuredMoment):
            yield path_name(path[-1:]), x


def _roots(state: optax.OptState, layout: Layout) -> dict[str, RootState]:
    """Return the roots by stack."""
    found = list(_found(state))
    out = dict(found)
    if len(found) > len(out) or out.keys() != layout.stacks.keys():
        raise ValueError(
            "state= has no eigenbases of these layers. Give the state of precond.ekfac, made with the layers of this "
            "capture and the parameters that it now gets. If the optimizer trains some of the layers alone "
            "(optax.partition), capture with these: capture._replace(layers=..)."
        )
    return out


def _whole(matrix: jax.Array, blocks: int) -> jax.Array:
    """Gather a stack that may be divided over devices."""
    if matrix.shape[0] >= blocks:
        return replicate(matrix)
    mesh = jax.sharding.get_abstract_mesh()
    manual = [a for a, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Manual]
    axes = sorted(varying(matrix)) or manual
    if len(axes) != 1 or matrix.shape[0] * lax.axis_size(axes[0]) < blocks:
        raise ValueError(
            "state= has fewer blocks than these layers. If it is of other layers, give a capture of these. If it is "
            "divided over several axes of a shard_map, let precond.ekfac gather bases when they are refreshed: "
            "axis=precond.sharded(axis, roots=axis)."
        )
    return lax.all_gather(matrix, axes[0], tiled=True)


def _with_bias(basis: jax.Array, rows: int) -> jax.Array:
    """Add the last row and column of a bias that is not trained: the basis has none for it."""
    if basis.shape[-1] == rows:
        return basis
    return jnp.pad(basis, ((0, 0), (0, 1), (0, 1))).at[:, -1, -1].set(1)

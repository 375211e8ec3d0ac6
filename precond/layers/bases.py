"""The eigenbases that an optimizer has of each layer, from its state."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType

from precond.blocks import Layer, Layout, check_matrices, layout_of, path_name, views
from precond.layers.nested import leaves_of
from precond.layers.tap import varying
from precond.mesh import replicate
from precond.roots import Checked, RootState
from precond.roots.corrected_inverse import MeasuredMoment

__all__ = ["bases_of"]


def bases_of(state: Any, layers: Mapping[str, Layer], params: Any) -> dict[str, dict[str, jax.Array]]:
    """What `precond.ekfac` has of each layer.

    Args:
      state: of an optimizer, chained or wrapped as may be.
      layers: those that it was given.
      params: those that it was given.

    Returns:
      By layer `inputs` and `outputs`, in the shapes of a probe's factors, `[.., i, i]` and `[.., o, o]`. An axis whose
      factor is diagonal, or that has none, has no basis.

    Raises:
      ValueError: for layers that are doubly factored; where the state has no bases of these layers, or has them
        divided over several axes of a `shard_map`.

    Examples:
      >>> import precond
      >>> layers, params = {"": Layer("kernel", None, 0, (2, 3), (), (0,), (1,))}, {"kernel": jnp.ones((2, 3))}
      >>> found = bases_of(precond.ekfac(0.1, layers).init(params), layers, params)
      >>> found[""]["inputs"].tolist(), found[""]["outputs"].shape
      ([[1.0, 0.0], [0.0, 1.0]], (3, 3))
    """
    check_matrices(layers)
    leaves, layout = leaves_of(params), layout_of(params, views.layers(layers), None)
    names, roots = {layer.kernel: name for name, layer in layers.items()}, _roots(state, layout)
    out: dict[str, dict[str, jax.Array]] = {name: {} for name, layer in layers.items() if layer.kernel in leaves}
    for stack, origins in layout.origins().items():
        for part, basis in zip(("inputs", "outputs"), roots[stack].derived, strict=True):
            if not isinstance(basis, Checked):
                continue
            whole, start = _whole(basis.matrix, layout.blocks[stack]), 0
            for origin in origins:
                name, one, start = names[origin.path], whole[start : start + origin.blocks], start + origin.blocks
                layer, lead = layers[name], leaves[origin.path].shape[: layers[name].lead]
                one = _grown(one, layer.size[1]) if part == "inputs" else one
                out[name][part] = one.reshape(*lead, *([layer.size[0]] if layer.groups else []), *one.shape[1:])
    return out


def _found(tree: Any) -> Iterator[tuple[str, RootState]]:
    """The roots of EK-FAC by stack, and none of other systems that stand in the same state."""

    def is_root(x: Any) -> bool:
        return isinstance(x, RootState)

    for path, x in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_root)[0]:
        if is_root(x) and isinstance(x.moments, MeasuredMoment):
            yield path_name(path[-1:]), x


def _roots(state: Any, layout: Layout) -> dict[str, RootState]:
    """By stack."""
    found = list(_found(state))
    out = dict(found)
    if len(found) > len(out) or out.keys() != layout.stacks.keys():
        raise ValueError(
            "state= has no eigenbases of these layers. Give the state of precond.ekfac, made with the layers of this "
            "capture and the parameters that it is now given; where it trains some of them alone (optax.partition), "
            "capture._replace(layers=..) with these."
        )
    return out


def _whole(matrix: jax.Array, blocks: int) -> jax.Array:
    """All of a stack that may be divided over devices."""
    if matrix.shape[0] >= blocks:
        return replicate(matrix)
    mesh = jax.sharding.get_abstract_mesh()
    manual = [a for a, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Manual]
    axes = sorted(varying(matrix)) or manual
    if len(axes) != 1 or matrix.shape[0] * lax.axis_size(axes[0]) < blocks:
        raise ValueError(
            "state= has fewer blocks than these layers. If it is of others, give a capture with its own layers; if it "
            "is divided over several axes of a shard_map, let precond.ekfac gather bases where they are refreshed: "
            "axis=precond.sharded(axis, roots=axis)."
        )
    return lax.all_gather(matrix, axes[0], tiled=True)


def _grown(basis: jax.Array, rows: int) -> jax.Array:
    """Of a layer whose bias is not trained, with a last row and column for it."""
    if basis.shape[-1] == rows:
        return basis
    return jnp.pad(basis, ((0, 0), (0, 1), (0, 1))).at[:, -1, -1].set(1)

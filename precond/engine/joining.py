"""The parameters of layers as matrices and back, where those that are divided over devices stay so."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from precond.blocks import Door, Geometry, Layer, door_of, join_layers, present_layers
from precond.collectives import Collectives
from precond.engine.route import best_axes
from precond.mesh import Place, collectives_over, entering, local_arrays, on_shards

__all__ = ["Joining", "joining"]

Arrays = Mapping[str, Any]


class Joining(NamedTuple):
    """A way from leaves to matrices and back.

    Attributes:
      matrices: from leaves by path, to the matrices of each layer, `[L, inputs, outputs]`.
      parameters: the inverse.
    """

    matrices: Callable[[Arrays], dict[str, jax.Array]]
    parameters: Callable[[Arrays], dict[str, jax.Array]]


def joining(layers: Mapping[str, Layer], leaves: Arrays, place: Place | None) -> Joining:
    """How the layers that are there become matrices.

    A bias is a row of its layer's matrix, so a matrix is divided along the layer's outputs: weights come there by one
    exchange (see `precond.blocks.Slices`). Layers whose outputs do not divide come whole, and go so.

    Args:
      layers: of a capture.
      leaves: gradients by path; shapes and dtypes are enough.
      place: over whose axes leaves come divided and are to stay so; None gathers them.

    Examples:
      >>> layers = {"": Layer("kernel", "bias", 0, (2, 3), (), (0,), (1,))}
      >>> leaves = {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}
      >>> there = joining(layers, leaves, None)
      >>> there.matrices(leaves)[""].shape, there.parameters(there.matrices(leaves))["bias"].tolist()
      ((1, 3, 3), [0.0, 0.0, 0.0])
    """
    here = present_layers(layers, leaves)
    if place is None:
        return Joining(
            lambda leaves: join_layers(here, local_arrays(leaves)),
            lambda matrices: _parameters(here, local_arrays(matrices), leaves),
        )
    doors, share, spec = _doors(here, leaves, place.count), collectives_over(place), PartitionSpec()
    divided = {name: layer for name, layer in here.items() if layer.kernel in doors}
    whole = {name: layer for name, layer in here.items() if name not in divided}
    going = {name: PartitionSpec(*[None] * len(x.tensor), place.axes) for name, x in divided.items()}
    coming = {path: PartitionSpec(*[None] * door.dim, place.axes) for path, door in doors.items()}
    coming, going = dict.fromkeys(leaves, spec) | coming, dict.fromkeys(here, spec) | going

    def run(body: Callable[[Any], Any], given: Arrays, coming: Arrays, going: Arrays) -> dict[str, jax.Array]:
        entered = {name: entering(place, x, coming[name]) for name, x in given.items()}
        return on_shards(lambda x, state: (body(x), state), place, entered, (), (), coming=coming, going=going)[0]

    def matrices(leaves: Arrays) -> dict[str, jax.Array]:
        return join_layers(whole, leaves) | _joined(divided, doors, share, leaves)

    def parameters(matrices: Arrays) -> dict[str, jax.Array]:
        return _parameters(whole, matrices, leaves) | _parted(divided, doors, share, matrices, leaves)

    return Joining(lambda x: run(matrices, x, coming, going), lambda x: run(parameters, x, going, coming))


def _doors(layers: Mapping[str, Layer], leaves: Arrays, count: int) -> dict[str, Door]:
    """Of the leaves of layers that may come divided."""
    found: dict[str, Door] = {}

    def door(path: str, read: tuple[int, ...], order: tuple[int, ...], tensor: tuple[int, ...]) -> Door | None:
        return door_of(leaves[path].shape, Geometry(read, order, tensor, ()), count, best_axes(leaves[path]))

    for layer in layers.values():
        if not layer.outputs:  # a scale
            continue
        lead = leaves[layer.kernel].shape[: layer.lead]
        order = (*range(layer.lead), *(layer.lead + i for i in layer.groups + layer.inputs + layer.outputs))
        inputs, outputs = math.prod(layer.shape[i] for i in layer.inputs), layer.size[2]
        own = {layer.kernel: door(layer.kernel, (*lead, *layer.shape), order, (inputs, outputs))}
        if layer.bias is not None:
            read = (*lead, *(layer.shape[i] for i in layer.groups + layer.outputs))
            own[layer.bias] = door(layer.bias, read, tuple(range(len(read))), (outputs,))
        there = {path: one for path, one in own.items() if one is not None}
        found |= there if len(there) == len(own) else {}
    return found


def _joined(
    layers: Mapping[str, Layer], doors: Mapping[str, Door], share: Collectives, leaves: Arrays
) -> dict[str, Any]:
    """Of each layer the device's part, from its parts of weights and biases."""
    came = share.all_to_all({k: door.enter(leaves[k], share.count) for k, door in doors.items() if not door.open})
    parts = {path: door.settle(came.get(path, leaves[path])) for path, door in doors.items()}
    out = {}
    for name, layer in layers.items():
        rows = parts[layer.kernel]
        if layer.bias is not None:
            rows = jnp.concatenate([rows, parts[layer.bias][:, None]], axis=1)
        out[name] = rows.reshape(len(rows), *layer.tensor[:-1], rows.shape[-1])
    return out


def _parted(
    layers: Mapping[str, Layer], doors: Mapping[str, Door], share: Collectives, matrices: Arrays, leaves: Arrays
) -> dict[str, Any]:
    """The inverse."""
    parts = {}
    for name, layer in layers.items():
        rows = matrices[name].reshape(len(matrices[name]), layer.size[1], -1)
        if layer.bias is not None:
            rows, parts[layer.bias] = rows[:, :-1], rows[:, -1]
        parts[layer.kernel] = rows
    parts = {path: x.astype(leaves[path].dtype) for path, x in parts.items()}
    sent = {path: door.leave(parts[path], share.count) for path, door in doors.items() if not door.open}
    came = parts | share.all_to_all(sent)
    return {path: door.exit(came[path], door.part(leaves[path].shape, share.count)) for path, door in doors.items()}


def _parameters(layers: Mapping[str, Layer], matrices: Arrays, leaves: Arrays) -> dict[str, jax.Array]:
    out = {}
    for name, layer in layers.items():
        bias = None if layer.bias is None else leaves[layer.bias]
        paths = [layer.kernel] if layer.bias is None else [layer.kernel, layer.bias]
        out |= zip(paths, layer.parameters(matrices[name], leaves[layer.kernel], bias), strict=True)
    return out

"""A pytree as stacks of equal blocks, and back. Floor 1 of the library."""

from precond.blocks.finite import finite_blocks, keep_finite
from precond.blocks.info import BlockInfo, info_of, without_info
from precond.blocks.joint import Layer
from precond.blocks.layout import BlockSize, Layout, Ragged, layout_of, ragged
from precond.blocks.leaves import check_leaves, check_shapes
from precond.blocks.matrices import (
    check_layers,
    check_matrices,
    join_layers,
    layers_in_stacks,
    layout_of_layers,
    present_layers,
    view_of_layer,
)
from precond.blocks.names import active_axes, stack_name
from precond.blocks.parameter import Parameter
from precond.blocks.paths import path_name
from precond.blocks.probe import Factors, Probe, with_zero_probes, without_probes
from precond.blocks.readings import Reading, asking, readings_of, tell_layers, tell_readings
from precond.blocks.slices import Door, Slices, door_of, fan, slices_of, unfan
from precond.blocks.view import Geometry, View, Views
from precond.blocks.views import as_views, default_views, rules, small_side, tensors

__all__ = [
    "BlockInfo",
    "BlockSize",
    "Door",
    "Factors",
    "Geometry",
    "Layer",
    "Layout",
    "Parameter",
    "Probe",
    "Ragged",
    "Reading",
    "Slices",
    "View",
    "Views",
    "active_axes",
    "as_views",
    "asking",
    "check_layers",
    "check_leaves",
    "check_matrices",
    "check_shapes",
    "default_views",
    "door_of",
    "fan",
    "finite_blocks",
    "info_of",
    "join_layers",
    "keep_finite",
    "layers_in_stacks",
    "layout_of",
    "layout_of_layers",
    "path_name",
    "present_layers",
    "ragged",
    "readings_of",
    "rules",
    "slices_of",
    "small_side",
    "stack_name",
    "tell_layers",
    "tell_readings",
    "tensors",
    "unfan",
    "view_of_layer",
    "with_zero_probes",
    "without_info",
    "without_probes",
]

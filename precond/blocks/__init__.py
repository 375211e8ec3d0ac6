"""Turn a pytree into stacks of equal blocks, and back. This is floor 1 of the library."""

from precond.blocks.block_ids import STARTS, block_ids_of, fingerprint, hashed, reading_of
from precond.blocks.block_info import BlockInfo, info_of, without_info
from precond.blocks.check_block_ids import check_block_ids, check_inner, first_difference
from precond.blocks.check_layers import check_layers, check_matrices, check_present
from precond.blocks.check_leaves import check_leaves, check_shapes
from precond.blocks.cuts import BlockSize, Cut, Ragged, Region, ragged
from precond.blocks.finite_blocks import finite_blocks, keep_finite, mask_blocks, sum_of_squares
from precond.blocks.known_parameters import KnownParameters, known_parameters
from precond.blocks.layer import Layer
from precond.blocks.layer_axes import spread_layer_axes, spread_shape
from precond.blocks.layout import Layout, Origin, layout_of
from precond.blocks.meaning import collect_meanings, report_average, report_meaning
from precond.blocks.parameter import Parameter
from precond.blocks.path_name import leaves_of, path_name
from precond.blocks.probe import LayerFactors, Probe, with_zero_probes, without_probes
from precond.blocks.readings import InitReport, Reading, collect_reports, readings_of, report_readings
from precond.blocks.refuse_foreign import count_foreign, layouts_of, refuse_foreign
from precond.blocks.refuse_stacks import refuse_divided, refuse_single_blocks, refuse_stacks
from precond.blocks.stack_name import active_axes, check_stacks, stack_name
from precond.blocks.stacked_state import StackedState, meaning_of
from precond.blocks.tensor_group import Member, TensorGroup
from precond.blocks.view import Geometry, View, Views
from precond.blocks.views import as_views, default_views, rules, small_side, tensors

__all__ = [
    "STARTS",
    "BlockInfo",
    "BlockSize",
    "Cut",
    "Geometry",
    "InitReport",
    "KnownParameters",
    "Layer",
    "LayerFactors",
    "Layout",
    "Member",
    "Origin",
    "Parameter",
    "Probe",
    "Ragged",
    "Reading",
    "Region",
    "StackedState",
    "TensorGroup",
    "View",
    "Views",
    "active_axes",
    "as_views",
    "block_ids_of",
    "check_block_ids",
    "check_inner",
    "check_layers",
    "check_leaves",
    "check_matrices",
    "check_present",
    "check_shapes",
    "check_stacks",
    "collect_meanings",
    "collect_reports",
    "count_foreign",
    "default_views",
    "fingerprint",
    "finite_blocks",
    "first_difference",
    "hashed",
    "info_of",
    "keep_finite",
    "known_parameters",
    "layout_of",
    "layouts_of",
    "leaves_of",
    "mask_blocks",
    "meaning_of",
    "path_name",
    "ragged",
    "reading_of",
    "readings_of",
    "refuse_divided",
    "refuse_foreign",
    "refuse_single_blocks",
    "refuse_stacks",
    "report_average",
    "report_meaning",
    "report_readings",
    "rules",
    "small_side",
    "spread_layer_axes",
    "spread_shape",
    "stack_name",
    "sum_of_squares",
    "tensors",
    "with_zero_probes",
    "without_info",
    "without_probes",
]

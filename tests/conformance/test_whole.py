"""The aliases that see the gradient as a whole: the tests of those made of stacks hold them to the same properties."""

import jax
import pytest
from jax.sharding import AxisType

from tests import catalog
from tests.conformance import harness
from tests.conformance import test_flax as flax
from tests.conformance import test_hyperparameters as hyperparameters
from tests.conformance import test_meshes as meshes
from tests.conformance import test_state as state
from tests.conformance import test_trees as trees
from tests.conformance import test_updates as updates
from tests.conformance import test_wrappers as wrapped
from tests.conformance.wrappers import WRAPPERS

PROPERTIES = (
    hyperparameters.test_injecting_the_learning_rate_alone_needs_no_static_arguments,
    hyperparameters.test_a_number_changed_in_the_state_takes_effect,
    hyperparameters.test_injection_keeps_bfloat16_parameters_and_float32_statistics,
    meshes.test_types_in_an_explicit_mesh_are_the_same_after_init_and_update_eager_and_jitted,
    state.test_a_scan_over_steps_equals_a_loop,
    state.test_counts_count_updates,
    state.test_parameters_and_state_may_be_donated,
    state.test_an_ensemble_under_vmap_equals_separate_runs,
    trees.test_the_tree_may_be_one_bare_array,
    trees.test_holes_in_the_tree_change_nothing_for_the_others,
    trees.test_complex_leaves_alone_are_trained,
    updates.test_leaves_of_several_dtypes_each_keep_their_own,
    updates.test_gradients_of_another_dtype_than_the_parameters_give_theirs_to_the_updates,
    updates.test_zero_gradients_from_the_start_move_nothing,
    updates.test_schedules_count_from_zero,
    wrapped.test_multi_steps_over_equal_gradients_is_one_step,
)

LATE = (
    flax.test_a_linen_train_state_takes_the_steps_of_a_plain_loop,
    flax.test_an_nnx_optimizer_takes_the_steps_of_a_plain_loop,
    hyperparameters.test_the_second_step_of_an_injected_optimizer_compiles_nothing,
    state.test_a_skipped_update_under_cond_leaves_the_state_alone,
    state.test_eager_steps_equal_jitted_ones,
    state.test_update_changes_none_of_its_arguments,
    trees.test_containers_change_nothing,
    trees.test_numpy_arrays_and_python_numbers_may_be_leaves,
    updates.test_a_constant_schedule_is_the_number,
    wrapped.test_multi_steps_moves_nothing_before_the_last_micro_step,
    wrapped.test_apply_if_finite_leaves_everything_as_it_was_on_a_bad_gradient,
)

THROUGH_WRAPPERS = (
    wrapped.test_a_wrapped_optimizer_keeps_its_types,
    wrapped.test_map_params_with_the_identity_is_a_no_op_through_a_wrapper,
)


def named(functions):
    return pytest.mark.parametrize("holds", functions, ids=lambda f: f.__name__.removeprefix("test_"))


@named(PROPERTIES)
@harness.each(catalog.WHOLE)
def test_the_property_holds(case, holds):
    holds(case)


@pytest.mark.slow
@named(LATE)
@harness.each(catalog.WHOLE)
def test_the_property_holds_too(case, holds):
    holds(case)


@pytest.mark.parametrize("kind", [AxisType.Explicit, pytest.param(AxisType.Auto, marks=pytest.mark.slow)])
@harness.each(catalog.WHOLE)
def test_a_mesh_changes_no_update(case, kind):
    mesh = meshes.make_mesh(kind)
    meshes.assert_changes_no_update(case, mesh, meshes.ROWS, jax.set_mesh(mesh))


@named(THROUGH_WRAPPERS)
@pytest.mark.parametrize("name", ["masked", "partition", "multi_steps", "inject_hyperparams", "apply_if_finite"])
@harness.each(catalog.WHOLE)
def test_the_property_holds_through_a_wrapper(case, name, holds):
    holds(case, WRAPPERS[name])


@pytest.mark.parametrize("name", ["masked", "partition", "multi_steps", "inject_hyperparams", "apply_if_finite"])
def test_what_is_kept_of_a_parameter_takes_its_spec(name):
    neumann = catalog.find("neumann")  # not mfac, whose window has an axis more than the parameters
    wrapped.test_map_params_gives_specs_that_jitted_init_takes_as_shardings(neumann, WRAPPERS[name])


@named(
    [
        wrapped.test_masked_leaves_pass_through_and_the_others_get_their_own_update,
        wrapped.test_a_partition_with_an_empty_group_gives_each_group_its_own_update,
    ]
)
def test_a_leafs_update_does_not_depend_on_others(holds):
    holds(catalog.find("neumann"))  # but for its regularizer, nothing at this distance; mfac's does


@pytest.mark.parametrize("dtype", harness.DTYPES)
@named([state.test_update_may_be_a_branch_of_cond, updates.test_every_dtype_compiles])
@harness.each(catalog.WHOLE)
def test_the_property_holds_for_every_dtype(case, dtype, holds):
    holds(case, dtype)


@pytest.mark.parametrize("shape", trees.SHAPES.values(), ids=trees.SHAPES)
@harness.each(catalog.WHOLE)
def test_a_leaf_of_any_shape_may_stand_alone(case, shape):
    trees.test_a_leaf_of_any_shape_may_stand_alone(case, shape)

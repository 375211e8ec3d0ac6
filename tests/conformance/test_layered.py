"""The aliases that see into layers: what Optax asks of a transformation, as the others are held to it."""

import jax
import optax
import pytest

import precond
from tests import catalog, of_gradients
from tests.conformance import harness
from tests.conformance import test_state as state
from tests.conformance import test_trees as trees
from tests.conformance import test_updates as updates
from tests.conformance import test_wrappers as wrapped
from tests.conformance.wrappers import WRAPPERS

EACH = pytest.mark.parametrize("case", catalog.LAYERED, ids=lambda case: case.name)

PROPERTIES = (
    state.test_eager_init_has_the_types_of_a_jitted_one,
    state.test_counts_are_found_by_name_and_are_int32,
    state.test_state_holds_arrays_alone,
)

LATE = (
    state.test_a_skipped_update_under_cond_leaves_the_state_alone,
    state.test_a_scan_over_steps_equals_a_loop,
    state.test_eager_steps_equal_jitted_ones,
    state.test_init_takes_shapes_for_arrays,
    state.test_parameters_and_state_may_be_donated,
    state.test_update_changes_none_of_its_arguments,
    state.test_an_ensemble_under_vmap_equals_separate_runs,
    trees.test_holes_in_the_tree_change_nothing_for_the_others,
    trees.test_one_tree_may_hold_leaves_of_every_shape,
    updates.test_leaves_of_several_dtypes_each_keep_their_own,
    updates.test_schedules_count_from_zero,
)


def named(functions):
    return pytest.mark.parametrize("holds", functions, ids=lambda f: f.__name__.removeprefix("test_"))


@named(PROPERTIES)
@EACH
def test_the_property_holds(case, holds):
    holds(case)


@pytest.mark.slow
@named(LATE)
@EACH
def test_the_property_holds_too(case, holds):
    holds(case)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", pytest.param("float64", marks=pytest.mark.slow)])
@named([state.test_update_keeps_shapes_dtypes_and_strong_types, state.test_update_may_be_a_branch_of_cond])
@EACH
def test_types_never_change(case, dtype, holds):
    holds(case, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masked", "partition", "multi_steps", "apply_if_finite"])
@named([wrapped.test_a_wrapped_optimizer_keeps_its_types])
@EACH
def test_the_property_holds_through_a_wrapper(case, name, holds):
    holds(case, WRAPPERS[name])


@pytest.mark.parametrize("alias", [precond.kfac, precond.ekfac])
def test_map_params_with_the_identity_is_a_no_op(alias):
    params = harness.normal()
    tx = alias(0.1, of_gradients.layers_of(params))
    state = jax.jit(tx.init)(params)
    harness.assert_equal(optax.tree.map_params(tx, lambda v: v, state), state)

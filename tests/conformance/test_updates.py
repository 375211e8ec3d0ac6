"""What every optimizer promises about `update`: extra arguments, dtypes, missing parameters, zero gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import catalog
from tests.conformance import harness


@harness.each(catalog.EVERY, harness.ONE)
def test_unknown_extra_arguments_are_ignored(case):
    tx = case.factory(**case.kwargs)  # on purpose without optax.with_extra_args_support
    params = harness.normal()
    state = jax.eval_shape(tx.init, params)
    plain = jax.eval_shape(tx.update, params, state, params)
    assert jax.eval_shape(lambda *args: tx.update(*args, nobody_knows_this=1), params, state, params) == plain


@harness.each(catalog.EVERY, harness.ONE)
def test_the_second_jitted_step_compiles_nothing(case):
    tx, params, (first, second) = harness.jitted(case.name), harness.normal(), harness.gradients(steps=2)
    _, state = tx.update(first, tx.init(params), params)
    with harness.log_compilations() as compiled:
        tx.update(second, state, params)
    assert not compiled


def test_compilations_are_seen_where_there_are_any():
    with harness.log_compilations() as compiled:
        jax.jit(lambda x: x + 1)(np.arange(7))
    assert compiled


@pytest.mark.parametrize("dtype", harness.DTYPES)
@harness.each(catalog.EVERY, harness.ONE)
def test_updates_have_the_dtype_of_the_gradients(case, dtype):
    traced = harness.traced(case.name, dtype)
    assert traced.updates == traced.params


@pytest.mark.parametrize("dtype", harness.DTYPES)
@harness.each(catalog.DEFAULTS, harness.ONE)
def test_every_dtype_compiles(case, dtype):
    """Traced is not enough: LAPACK has no half precision, which shows when it is lowered."""
    with jax.enable_x64(dtype == "float64"):
        tx, params = case.make(), harness.abstract(harness.normal(dtype=dtype))
        jax.jit(tx.update).lower(params, jax.eval_shape(tx.init, params), params)


@pytest.mark.parametrize("dtype", harness.DTYPES)
@harness.each(catalog.ALIASES + catalog.RECIPES)
def test_what_is_kept_of_the_stacks_is_float32_or_wider(case, dtype):
    (_, stacks), *_ = optax.tree.get_all_with_path(harness.traced(case.name, dtype).before, "stacks")
    floating = {x.dtype for x in jax.tree.leaves(stacks) if jnp.issubdtype(x.dtype, jnp.floating)}
    assert floating == {jnp.dtype("float64" if dtype == "float64" else "float32")}


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_leaves_of_several_dtypes_each_keep_their_own(case):
    dtypes = {"a": jnp.bfloat16, "b": jnp.float32, "c": jnp.float16}
    params = {name: jnp.ones((4, 3), dtype) for name, dtype in dtypes.items()}
    (updates,), _, _ = harness.run_jitted(case.make(), params, [params])
    assert {name: u.dtype for name, u in updates.items()} == dtypes


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_gradients_of_another_dtype_than_the_parameters_give_theirs_to_the_updates(case):
    tx, params = case.make(), harness.normal()
    grads = harness.abstract(harness.normal(dtype=jnp.bfloat16))
    updates, state = jax.eval_shape(tx.update, grads, jax.eval_shape(tx.init, params), params)
    assert harness.abstract(updates) == grads
    assert harness.abstract(state) == harness.abstract(jax.eval_shape(tx.init, params))


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_bfloat16_parameters_are_trained(case):
    target = harness.normal(dtype=jnp.bfloat16)
    rate = 0.2 if case.name == "muon" else 0.05  # whose matrices move by a fifth of the rate
    tx, params = case.make(learning_rate=rate), optax.tree.zeros_like(target)
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(100):
        updates, state = update(optax.tree.sub(params, target), state, params)
        params = optax.apply_updates(params, updates)
    params, target = optax.tree.cast((params, target), jnp.float32)
    assert optax.tree.norm(optax.tree.sub(params, target)) < 0.2 * optax.tree.norm(target)


@harness.each([case for case in catalog.EVERY if not case.needs_params])
def test_without_weight_decay_no_parameters_are_needed(case):
    tx, params = case.make(), harness.normal()
    state = jax.eval_shape(tx.init, params)
    assert jax.eval_shape(tx.update, params, state) == jax.eval_shape(tx.update, params, state, params)


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_without_weight_decay_parameters_change_nothing(case):
    tx, params, (grads,) = harness.jitted(case.name), harness.normal(), harness.gradients()
    state = tx.init(params)
    harness.assert_close(tx.update(grads, state), tx.update(grads, state, params))


@harness.each([case for case in catalog.EVERY if case.needs_params])
def test_weight_decay_without_parameters_is_an_error(case):
    tx, params = case.make(), harness.normal()
    with pytest.raises(ValueError, match="params"):
        jax.eval_shape(tx.update, params, jax.eval_shape(tx.init, params))


@harness.each(catalog.EVERY, harness.ONE)
def test_zero_gradients_keep_everything_finite(case):
    tx, params = harness.jitted(case.name), harness.normal()
    zero = optax.tree.zeros_like(params)
    _, params, state = harness.run(tx, params, [zero] * 3)
    updates, params, state = harness.run(tx, params, harness.gradients(steps=2), state)
    harness.assert_finite((updates, params, state))


@harness.each([case for case in catalog.ALIASES if not case.needs_params])
def test_zero_gradients_from_the_start_move_nothing(case):
    params = harness.normal()
    zero = optax.tree.zeros_like(params)
    updates, _, _ = harness.run(harness.jitted(case.name), params, [zero] * 2)
    harness.assert_equal(updates, [zero] * 2)


@harness.each(catalog.EVERY, harness.ONE)
def test_a_run_over_several_refreshes_stays_finite_and_moves_every_leaf(case):
    start = harness.normal()
    updates, end, state = harness.run(harness.jitted(case.name), start, harness.gradients(steps=25))
    harness.assert_finite((updates, state))
    jax.tree.map(lambda a, b: np.testing.assert_array_less(0, np.abs(a - b).max()), start, end)


@harness.each(catalog.DEFAULTS + tuple(case for case in catalog.VARIANTS if "refresh" in case.kwargs))
def test_updates_are_no_rounding_errors(case):
    """A quotient of two numbers that only rounding keeps from 0 would differ in float32 and float64."""
    expected, _, _ = harness.run(harness.jitted(case.name), harness.normal(), harness.gradients(steps=4))
    with jax.enable_x64(True):
        params, grads = harness.normal(dtype="float64"), harness.gradients(steps=4, dtype="float64")
        actual, _, _ = harness.run_jitted(case.make(), params, grads)
    harness.assert_close(actual, expected, rtol=1e-2, atol=1e-2 * case.kwargs["learning_rate"])


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_a_constant_schedule_is_the_number(case):
    params, grads = harness.normal(), harness.gradients(steps=3)
    scheduled = case.make(learning_rate=optax.constant_schedule(case.kwargs["learning_rate"]))
    expected, _, _ = harness.run(harness.jitted(case.name), params, grads)
    actual, _, _ = harness.run_jitted(scheduled, params, grads)
    harness.assert_close(actual, expected)


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_schedules_count_from_zero(case):
    def lr(count):
        return jnp.where(count == 1, 0.1, 0.0)

    params, grads = harness.normal(), harness.gradients(steps=3)
    updates, _, _ = harness.run_jitted(case.make(learning_rate=lr), params, grads)
    moved = [bool(optax.tree.norm(u["dense"]["kernel"])) for u in updates]
    assert moved == [False, True, False]

"""What every optimizer promises about its state: types that never change, found by name, loops and donation."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization

from tests import catalog
from tests.conformance import harness


@pytest.mark.parametrize("dtype", harness.DTYPES)
@harness.each(catalog.EVERY)
def test_update_keeps_shapes_dtypes_and_strong_types(case, dtype):
    traced = harness.traced(case.name, dtype)
    with jax.enable_x64(dtype == "float64"):
        assert harness.types(traced.after) == harness.types(traced.before)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(traced.before))


@harness.each(catalog.EVERY)
def test_eager_init_has_the_types_of_a_jitted_one(case):
    tx, params = case.make(), harness.normal()
    assert harness.types(tx.init(params)) == harness.types(jax.eval_shape(tx.init, params))


@pytest.mark.parametrize("dtype", harness.DTYPES)
@harness.each(catalog.DEFAULTS, harness.ONE)
def test_update_may_be_a_branch_of_cond(case, dtype):
    with jax.enable_x64(dtype == "float64"):
        tx, params = case.make(), harness.normal(dtype=dtype)
        state = jax.eval_shape(tx.init, params)

        def step(flag, grads, state, params):
            # A value of a wrong dtype among the extra arguments must not leak into the state.
            value = jnp.zeros([], jnp.float16 if dtype != "float16" else jnp.bfloat16)
            return jax.lax.cond(flag, lambda: tx.update(grads, state, params, value=value), lambda: (grads, state))

        updates, after = jax.eval_shape(step, True, params, state, params)
        assert harness.types((updates, after)) == harness.types((params, state))


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_a_skipped_update_under_cond_leaves_the_state_alone(case):
    tx, params = harness.jitted(case.name), harness.normal()
    state = tx.init(params)

    @jax.jit
    def step(flag, grads, state):
        return jax.lax.cond(flag, lambda: tx.update(grads, state, params), lambda: (grads, state))

    harness.assert_equal(step(False, params, state), (params, state))
    harness.assert_close(step(True, params, state), tx.update(params, state, params))


@harness.each(catalog.DEFAULTS)
def test_a_scan_over_steps_equals_a_loop(case):
    tx, params, grads = harness.jitted(case.name), harness.normal(), harness.gradients(steps=13)

    def body(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        return (optax.apply_updates(params, updates), state), updates

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *grads)
    _, updates = jax.jit(lambda carry: jax.lax.scan(body, carry, stacked))((params, tx.init(params)))
    expected, _, _ = harness.run(tx, params, grads)
    harness.assert_close(updates, jax.tree.map(lambda *x: jnp.stack(x), *expected), rtol=1e-4)


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_eager_steps_equal_jitted_ones(case):
    tx, params, grads = case.make(), harness.normal((4, 3)), harness.gradients((4, 3), steps=2)
    expected, _, _ = harness.run_jitted(tx, params, grads)
    actual, _, _ = harness.run(tx, params, grads)
    harness.assert_close(actual, expected, rtol=1e-4)


@harness.each(catalog.EVERY)
def test_init_takes_shapes_for_arrays(case):
    tx, params = case.make(), harness.normal()
    shapes = harness.abstract(params)
    assert harness.types(tx.init(shapes)) == harness.types(jax.eval_shape(tx.init, params))


@harness.each(catalog.EVERY)
def test_map_params_with_the_identity_is_a_no_op(case):
    tx, params = case.make(), harness.normal()
    state = tx.init(params)
    harness.assert_equal(optax.tree.map_params(tx, lambda v: v, state), state)


@harness.each(catalog.EVERY)
def test_counts_are_found_by_name_and_are_int32(case):
    counts = optax.tree.get_all_with_path(harness.traced(case.name, "float32").before, "count")
    assert {count.dtype for _, count in counts} == {jnp.dtype("int32")}
    assert {count.ndim for _, count in counts} <= {0, 1}  # of the steps, or of each block's own


@harness.each(catalog.DEFAULTS)
def test_counts_count_updates(case):
    _, _, state = harness.run(harness.jitted(case.name), harness.normal(), harness.gradients(steps=3))
    assert max(count.max() for _, count in optax.tree.get_all_with_path(state, "count")) == 3


@harness.each(catalog.REFRESHED)
def test_the_engine_is_found_by_name_and_counts_first(case):
    state = jax.eval_shape(case.make().init, harness.normal())
    ((_, engine),) = optax.tree.get_all_with_path(state, "KroneckerState")
    assert engine._fields[0] == "count"


@harness.each(catalog.EVERY)
def test_state_holds_arrays_alone(case):
    state = case.make().init(harness.normal())
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_parameters_and_state_may_be_donated(case):
    tx, params, grads = case.make(), harness.normal(), harness.gradients(steps=3)

    def step(params, state, g):
        updates, state = tx.update(g, state, params)
        return optax.apply_updates(params, updates), state

    donating = jax.jit(step, donate_argnums=(0, 1))
    _, expected, _ = harness.run(harness.jitted(case.name), params, grads)
    state = tx.init(params)  # eager: no two leaves may share a buffer
    for g in grads:
        old, (params, state) = state, donating(params, state, g)
        kept = {path[-1].name for path, x in jax.tree_util.tree_leaves_with_path(old) if not x.is_deleted()}
        # What is only reported is not read, and what is not read jit leaves to the caller.
        assert kept <= ({"kl", "skipped"} if case in catalog.LAYERED else set())
    harness.assert_close(params, expected)


@harness.each(catalog.DEFAULTS)
def test_update_changes_none_of_its_arguments(case):
    tx, params, (grads,) = harness.jitted(case.name), harness.normal(), harness.gradients()
    state = tx.init(params)
    kept = jax.tree.map(np.array, (grads, state, params))
    tx.update(grads, state, params)
    harness.assert_equal(jax.tree.map(np.asarray, (grads, state, params)), kept)


@pytest.mark.platforms
@harness.each(catalog.DEFAULTS, harness.ONE)
def test_an_ensemble_under_vmap_equals_separate_runs(case):
    tx, members = case.make(), 3
    params = [harness.normal(seed=10 + i) for i in range(members)]
    grads = [[harness.normal(seed=100 * i + t) for t in range(4)] for i in range(members)]
    expected = [harness.run(harness.jitted(case.name), p, g)[1] for p, g in zip(params, grads, strict=True)]

    def stack(trees):
        return jax.tree.map(lambda *x: jnp.stack(x), *trees)

    ensemble = harness.Jitted(jax.jit(jax.vmap(tx.init)), jax.jit(jax.vmap(tx.update)))
    _, actual, _ = harness.run(ensemble, stack(params), [stack(g) for g in zip(*grads, strict=True)])
    harness.assert_close(actual, stack(expected), rtol=1e-4, atol=1e-5)


STORED = {
    "msgpack": lambda state, fresh: serialization.from_bytes(fresh, serialization.to_bytes(state)),
    "pickle": lambda state, fresh: pickle.loads(pickle.dumps(state)),
    "a list in place of a tuple": lambda state, fresh: list(state),
}


@pytest.mark.parametrize("store", STORED.values(), ids=STORED)
def test_training_goes_on_from_a_state_that_was_stored(store):
    tx, params, grads = harness.jitted("shampoo"), harness.normal(), harness.gradients(steps=2)
    _, _, state = harness.run(tx, params, grads[:1])
    expected, _ = tx.update(grads[1], state, params)
    found, after = tx.update(grads[1], store(state, tx.init(params)), params)
    harness.assert_equal(found, expected)
    assert isinstance(after, tuple)

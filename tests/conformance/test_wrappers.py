"""Optax's wrappers work around every alias: what they promise holds, and their state can be sharded by specs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import precond
from tests import catalog
from tests.conformance import harness
from tests.conformance.wrappers import WRAPPERS

SHAPES = {"dense": {"kernel": (8, 3), "bias": (8,)}, "twin": {"kernel": (8, 3)}, "scale": ()}
SPECS = {"dense": {"kernel": P("data", None), "bias": P("data")}, "twin": {"kernel": P("data")}, "scale": P()}

each_wrapper = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


def is_spec(x):
    return isinstance(x, P)


def is_hole(x):
    return isinstance(x, optax.MaskedNode)


def keep_holes(leaf, spec):
    """The spec of a parameter for what is kept about it, if anything is."""
    return leaf if is_hole(leaf) else spec


@each_wrapper
@harness.each(catalog.DEFAULTS, harness.ONE)
def test_a_wrapped_optimizer_keeps_its_types(case, wrap):
    tx, params = wrap(case), harness.normal()
    before = jax.eval_shape(tx.init, params)
    updates, after = jax.eval_shape(tx.update, params, before, params)
    assert harness.types(after) == harness.types(before)
    assert harness.types(updates) == harness.types(params)


# Another of the same kind is there: a chain with `ema`, a partition, a condition, injected numbers and choices.
ALIKE = ("chain", "named_chain", "partition_all_one_group", "conditionally_transform", "inject_hyperparams")


@pytest.mark.parametrize(
    "wrap", [pytest.param(w, id=n, marks=[pytest.mark.slow] * (n in ALIKE)) for n, w in WRAPPERS.items()]
)
def test_a_wrapped_optimizer_descends(wrap):
    tx, target = wrap(catalog.find("shampoo")), harness.normal({"kernel": (4, 3), "bias": (3,)})
    params = optax.tree.zeros_like(target)
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(20):
        updates, state = update(optax.tree.sub(params, target), state, params)
        params = optax.apply_updates(params, updates)
    assert jnp.linalg.norm(params["kernel"] - target["kernel"]) < 0.97 * jnp.linalg.norm(target["kernel"])


@each_wrapper
@harness.each(catalog.DEFAULTS, harness.ONE)
def test_map_params_with_the_identity_is_a_no_op_through_a_wrapper(case, wrap):
    tx, params = wrap(case), harness.normal()
    state = tx.init(params)
    harness.assert_equal(optax.tree.map_params(tx, lambda v: v, state), state)


@each_wrapper
@harness.each(catalog.DEFAULTS, harness.ONE)
def test_map_params_gives_specs_that_jitted_init_takes_as_shardings(case, wrap):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    tx, params = wrap(case), harness.normal(SHAPES)
    shapes = jax.eval_shape(tx.init, params)
    specs = optax.tree.map_params(tx, keep_holes, shapes, SPECS, transform_non_params=lambda _: P(), is_leaf=is_hole)
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=is_spec)
    state = jax.jit(tx.init, out_shardings=shardings)(params)
    assert harness.types(state) == harness.types(shapes)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    placed = {leaf.sharding.spec for path, leaf in leaves if "bias" in jax.tree_util.keystr(path)}
    assert placed == {P("data")}  # what was made for the bias lies where the bias lies


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_masked_leaves_pass_through_and_the_others_get_their_own_update(case):
    params, (grads,) = harness.normal(), harness.gradients()
    tx = WRAPPERS["masked"](case)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    plain = harness.jitted(case.name)
    expected, _ = plain.update(grads, plain.init(params), params)
    harness.assert_close(updates, expected | {"scale": grads["scale"]})


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_a_partition_with_an_empty_group_gives_each_group_its_own_update(case):
    params, (grads,) = harness.normal(), harness.gradients()
    tx = WRAPPERS["partition"](case)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    plain, adam = harness.jitted(case.name), optax.adam(1e-2)
    ours, _ = plain.update(grads, plain.init(params), params)
    others, _ = adam.update(grads, adam.init(params), params)
    harness.assert_close(updates["head"], {"kernel": ours["head"]["kernel"], "bias": others["head"]["bias"]})


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_multi_steps_moves_nothing_before_the_last_micro_step(case):
    params = harness.normal(dtype=jnp.bfloat16)
    tx = optax.MultiSteps(case.make(), every_k_schedule=4)
    (updates,), _, _ = harness.run_jitted(tx, params, harness.gradients(dtype=jnp.bfloat16))
    harness.assert_equal(updates, optax.tree.zeros_like(params))


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_multi_steps_over_equal_gradients_is_one_step(case):
    params, grads = harness.normal(), harness.gradients(steps=2)
    expected, _, _ = harness.run(harness.jitted(case.name), params, grads)
    tx = optax.MultiSteps(case.make(), every_k_schedule=2)
    actual, _, _ = harness.run_jitted(tx, params, [grads[0], grads[0], grads[1], grads[1]])
    harness.assert_equal(actual[::2], [optax.tree.zeros_like(params)] * 2)
    harness.assert_close(actual[1::2], expected)


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_apply_if_finite_leaves_everything_as_it_was_on_a_bad_gradient(case):
    tx, params = WRAPPERS["apply_if_finite"](case), harness.normal()
    update = jax.jit(tx.update)
    _, state = update(*harness.gradients(), tx.init(params), params)
    bad = jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), params)
    updates, after = update(bad, state, params)
    harness.assert_equal(updates, optax.tree.zeros_like(params))
    harness.assert_equal(after.inner_state, state.inner_state)


@pytest.mark.parametrize("wrapper", [optax.conditionally_transform, optax.conditionally_mask])
def test_a_step_whose_condition_fails_keeps_the_state(wrapper):
    tx = wrapper(catalog.find("soap").make(), lambda step: step != 1)
    params, grads, update = harness.normal(), harness.gradients(steps=2), jax.jit(tx.update)
    _, state = update(grads[0], tx.init(params), params)
    updates, after = update(grads[1], state, params)
    harness.assert_equal(after.inner_state, state.inner_state)
    skipped = grads[1] if wrapper is optax.conditionally_transform else optax.tree.zeros_like(params)
    harness.assert_equal(updates, skipped)


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_schedule_free_finds_the_minimum(case):
    target = harness.normal((4, 3))
    tx = optax.contrib.schedule_free(case.make(b1=0.0, learning_rate=0.05), 0.05)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(params - target, state, params)
        return (optax.apply_updates(params, updates), state), None

    start = jnp.zeros((4, 3))
    (params, state), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=500))((start, tx.init(start)))
    found = optax.contrib.schedule_free_eval_params(state, params)
    assert np.linalg.norm(found - target) < 0.1 * np.linalg.norm(target)


def squares(params):
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(params))


MORE = {
    "plateau": lambda tx: optax.chain(tx, optax.contrib.reduce_on_plateau()),
    "mechanize": optax.contrib.mechanize,
    "clipped adaptively": lambda tx: optax.chain(optax.adaptive_grad_clip(0.1), tx),
    "sharpness aware": lambda tx: optax.contrib.sam(
        tx, optax.chain(optax.contrib.normalize(), optax.sgd(0.05)), sync_period=2
    ),
}


@pytest.mark.parametrize("name", MORE)
def test_it_descends_inside_of_more_wrappers_of_optax(name):
    tx = MORE[name](precond.shampoo(5e-2))
    params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(squares)(params)
        given = {"value": value} if name == "plateau" else {}
        updates, state = tx.update(grads, state, params, **given)
        return (optax.apply_updates(params, updates), state), value

    (last, _), values = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), None, 12))(params)
    assert squares(last) < squares(params)
    assert jnp.all(jnp.isfinite(values))


def test_it_descends_inside_of_lookahead():
    tx = optax.lookahead(precond.shampoo(5e-2), 3, 0.5)
    start = optax.LookaheadParams.init_synced({"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)})

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(squares)(params.fast), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), None, 24))(start)
    assert squares(params.slow) < 0.7 * squares(start.slow)

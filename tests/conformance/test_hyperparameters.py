"""`optax.inject_hyperparams`: numbers become arrays in the state, and what cannot become one says so."""

import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from tests import catalog
from tests.conformance import harness

EVERYTHING_STATIC = {
    "refresh": 2,
    "block_size": 2,
    "views": [["head", None]],
    "weight_decay": 0.1,
    "mask": lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    "otherwise": optax.scale_by_rms(),
}


REFRESHED = [case for case in catalog.DEFAULTS if case in catalog.REFRESHED]


def injected(case, **kwargs):
    kwargs = case.kwargs | kwargs
    return optax.inject_hyperparams(case.factory, precond.static_args(case.factory))(**kwargs)


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_injecting_the_learning_rate_alone_needs_no_static_arguments(case):
    with jax.enable_x64(True):  # residuals of roots are nothing but rounding: of float32, they may differ by a half
        params, grads = harness.normal(dtype=jnp.float64), harness.gradients(steps=3, dtype=jnp.float64)
        expected, _, inner = harness.run(harness.jitted(case.name), params, grads)
        tx = optax.inject_hyperparams(case.factory)(**case.kwargs)
        actual, _, state = harness.run_jitted(tx, params, grads)
    harness.assert_close(actual, expected)
    harness.assert_close(state.inner_state, inner)


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_injecting_with_everything_static_changes_nothing(case):
    params, grads = harness.normal(), harness.gradients(steps=3)
    everything = harness.known(case, EVERYTHING_STATIC)
    expected, _, _ = harness.run_jitted(case.make(**everything), params, grads)
    actual, _, _ = harness.run_jitted(injected(case, **everything), params, grads)
    harness.assert_close(actual, expected)


@harness.each(catalog.ALIASES, harness.ONE)
def test_every_choice_of_parts_can_be_injected(case):
    tx, params = injected(case), harness.normal()
    before = jax.eval_shape(tx.init, params)
    updates, after = jax.eval_shape(tx.update, params, before, params)
    assert harness.types((updates, after)) == harness.types((params, before))


STATIC = {
    precond.shampoo: {"power", "refresh", "block_size", "views", "mask"},
    precond.muon: {"block_size", "views", "mask"},
    precond.kfac: {"layers", "refresh", "mask", "root"},
    precond.ekfac: {"layers", "refresh", "mask"},
    precond.mfac: {"window", "density", "rank", "mask"},
    precond.neumann: {"variables", "mask"},
    precond.adascale: {"optimizer", "estimator", "power", "rule", "groups"},
    precond.scale_by_shampoo: {"power", "refresh", "block_size", "views"},
    precond.recipes.google_shampoo: {"grafting", "root", "block_size"},
}
INJECTED = {"learning_rate", "b1", "b2", "decay", "damping", "bound", "epoch", "resets", "schedule"}


@pytest.mark.parametrize("factory", STATIC, ids=lambda factory: factory.__name__)
def test_static_args_name_what_sets_shapes_and_programs(factory):
    named = {*precond.static_args(factory)}
    assert STATIC[factory] <= named <= set(inspect.signature(factory).parameters)
    assert not INJECTED & named


@pytest.mark.parametrize("name", ["block_size", "refresh"])
@harness.each(REFRESHED, harness.ONE)
def test_an_injected_integer_says_how_to_make_it_static(case, name):
    tx = optax.inject_hyperparams(case.factory)(**case.kwargs, **{name: 4})
    with pytest.raises(TypeError, match=rf"{name}.*static_args=precond\.static_args"):
        jax.eval_shape(tx.init, harness.normal())


def test_an_injected_power_says_how_to_make_it_static():
    tx = optax.inject_hyperparams(precond.shampoo)(1e-2, power=0.5)
    with pytest.raises(TypeError, match=r"power.*static_args"):
        jax.eval_shape(tx.init, harness.normal())


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_the_state_holds_every_number(case):
    state = jax.eval_shape(optax.inject_hyperparams(case.factory)(**case.kwargs, weight_decay=0.1).init, {})
    signature = inspect.signature(case.factory).parameters.values()
    numbers = {p.name for p in signature if isinstance(p.default, float)} | {"learning_rate", "weight_decay"}
    assert set(state.hyperparams) == numbers


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_a_number_changed_in_the_state_takes_effect(case):
    params, grads = harness.normal(), harness.gradients(steps=3)
    tx = optax.inject_hyperparams(case.factory)(**case.kwargs)
    tx = harness.Jitted(jax.jit(tx.init), jax.jit(tx.update))
    _, _, state = harness.run(tx, params, grads[:2])
    whole, _ = tx.update(grads[2], state, params)
    state.hyperparams["learning_rate"] = state.hyperparams["learning_rate"] / 2
    half, _ = tx.update(grads[2], state, params)
    harness.assert_close(jax.tree.map(lambda u: 2 * u, half), whole)


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_every_number_may_be_traced_and_takes_effect(case):
    tx = optax.inject_hyperparams(case.factory)(**case.kwargs)
    tx = harness.Jitted(tx.init, jax.jit(tx.update))
    params, grads = harness.normal(), harness.gradients(steps=3)

    def end(numbers):
        state = tx.init(params)._replace(hyperparams=numbers)
        return jax.tree.leaves(harness.run(tx, params, grads, state)[1])

    numbers = tx.init(params).hyperparams
    base = end(numbers)
    for name in numbers:
        moved = end(numbers | {name: jnp.float32(0.5)})
        assert any(np.any(a != b) for a, b in zip(base, moved, strict=True)), name


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_an_injected_schedule_is_followed(case):
    params, grads = harness.normal(), harness.gradients(steps=3)
    schedule = optax.linear_schedule(1e-2, 0.0, 2)
    expected, _, _ = harness.run_jitted(case.make(learning_rate=schedule), params, grads)
    tx = optax.inject_hyperparams(case.factory)(learning_rate=schedule)
    actual, _, state = harness.run_jitted(tx, params, grads)
    harness.assert_close(actual, expected)
    assert state.hyperparams["learning_rate"] == 0


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_injection_keeps_bfloat16_parameters_and_float32_statistics(case):
    params = harness.normal(dtype=jnp.bfloat16)
    tx = optax.inject_hyperparams(case.factory)(**case.kwargs)
    before = jax.eval_shape(tx.init, params)
    updates, after = jax.eval_shape(tx.update, params, before, params)
    assert harness.abstract(updates) == harness.abstract(params)
    assert harness.types(after) == harness.types(before)
    assert harness.types(after.inner_state) == harness.types(jax.eval_shape(case.make().init, params))


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_the_second_step_of_an_injected_optimizer_compiles_nothing(case):
    params, (first, second) = harness.normal(), harness.gradients(steps=2)
    tx = optax.inject_hyperparams(case.factory)(**case.kwargs)
    update = jax.jit(tx.update)
    _, state = update(first, tx.init(params), params)
    with harness.log_compilations() as compiled:
        update(second, state, params)
    assert not compiled


JSON = """{"learning_rate": 0.01, "b1": 0.9, "b2": 0.95, "eps": 1e-8, "weight_decay": 1e-3, "refresh": 2,
           "block_size": 2, "views": [["head", null], ["twin/kernel", {"axes": [[0, 1]]}]]}"""


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_arguments_may_be_read_from_json(case):
    kwargs = harness.known(case, json.loads(JSON))
    views = precond.views.rules(("head", None), ("twin/kernel", precond.View(((0, 1),))))
    params, grads = harness.normal(), harness.gradients(steps=3)
    actual, _, _ = harness.run_jitted(case.factory(**kwargs), params, grads)
    expected, _, _ = harness.run_jitted(case.factory(**kwargs | {"views": views}), params, grads)
    harness.assert_equal(actual, expected)


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_injected_arguments_may_be_read_from_json(case):
    kwargs, params, grads = harness.known(case, json.loads(JSON)), harness.normal(), harness.gradients(steps=3)
    expected, _, _ = harness.run_jitted(case.factory(**kwargs), params, grads)
    actual, _, _ = harness.run_jitted(injected(case, **kwargs), params, grads)
    harness.assert_close(actual, expected)

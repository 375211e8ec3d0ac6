"""Trees that are not a network: nothing in them, parts masked, leaves of every shape, complex leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import catalog
from tests.conformance import harness

SHAPES = {
    "scalar": (),
    "single": (1,),
    "row": (1, 5),
    "column": (5, 1),
    "convolution": (3, 3, 2, 4),
    "empty": (0, 3),
}


def two_steps(case, params):
    """Updates and state after two jitted steps with gradients of the parameters' shapes."""
    shapes = jax.tree.map(lambda p: p.shape, params)
    grads = [jax.tree.map(lambda g, p: g.astype(p.dtype), g, params) for g in harness.gradients(shapes, steps=2)]
    updates, _, state = harness.run_jitted(case.make(), params, grads)
    return updates, state


@harness.each(catalog.EVERY, harness.ONE)
def test_one_tree_may_hold_leaves_of_every_shape(case):
    params = harness.normal(SHAPES)
    updates, state = two_steps(case, params)
    assert harness.types(updates[1]) == harness.types(params)
    harness.assert_finite((updates, state))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@harness.each(catalog.DEFAULTS, harness.ONE)
def test_a_leaf_of_any_shape_may_stand_alone(case, shape):
    params = harness.normal({"kernel": shape})
    updates, state = two_steps(case, params)
    assert harness.types(updates[1]) == harness.types(params)
    harness.assert_finite((updates, state))
    assert not params["kernel"].size or np.any(updates[1]["kernel"])


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_the_tree_may_be_one_bare_array(case):
    params = harness.normal((4, 3))
    updates, _ = two_steps(case, params)
    assert updates[1].shape == (4, 3)


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_numpy_arrays_and_python_numbers_may_be_leaves(case):
    params = {"kernel": np.arange(1.0, 7.0).reshape(3, 2), "scale": 1.0}
    arrays = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in params.items()}
    tx = case.make()
    state = tx.init(params)
    assert harness.abstract(state) == harness.abstract(tx.init(arrays))
    harness.assert_close(tx.update(params, state, params), tx.update(arrays, state, arrays))


def trees_without_leaves():
    return {"dict": {}, "nones": {"a": None, "b": [None]}, "masked": {"a": optax.MaskedNode()}}


@pytest.mark.parametrize("tree", trees_without_leaves().values(), ids=trees_without_leaves())
@harness.each(catalog.EVERY, harness.ONE)
def test_a_tree_may_have_no_leaves(case, tree):
    tx = case.make()
    state = tx.init(tree)
    updates, after = jax.jit(tx.update)(tree, state, tree)
    assert updates == tree
    assert harness.types(after) == harness.types(state)


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_holes_in_the_tree_change_nothing_for_the_others(case):
    def with_holes(tree):
        return tree | {"hole": None, "twin": {"kernel": tree["twin"]["kernel"], "bias": optax.MaskedNode()}}

    params, grads = harness.normal(), harness.gradients(steps=2)
    expected, _, _ = harness.run(harness.jitted(case.name), params, grads)
    actual, _, _ = harness.run_jitted(case.make(), with_holes(params), [with_holes(g) for g in grads])
    harness.assert_close(actual, [with_holes(u) for u in expected])


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_containers_change_nothing(case):
    params, grads = harness.normal(), harness.gradients(steps=2)

    def listed(tree):
        return [tree["dense"], (tree["head"], tree["scale"]), tree["twin"]]

    expected, _, _ = harness.run(harness.jitted(case.name), params, grads)
    actual, _, _ = harness.run_jitted(case.make(), listed(params), [listed(g) for g in grads])
    harness.assert_close(actual, [listed(u) for u in expected])


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_leaves_without_a_view_go_to_otherwise(case):
    params, (grads,) = harness.normal(), harness.gradients()
    (updates,), _, _ = harness.run_jitted(case.make(otherwise=optax.scale(3.0)), params, [grads])
    harness.assert_close(updates["dense"]["bias"], -3e-2 * grads["dense"]["bias"])


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_complex_leaves_go_to_otherwise(case):
    real, (g,) = harness.normal(), harness.gradients()
    params, grads = ({"real": t, "complex": t["head"]["kernel"] * (1 + 2j)} for t in (real, g))
    (updates,), _, state = harness.run_jitted(case.make(otherwise=optax.scale(3.0)), params, [grads])
    assert updates["complex"].dtype == jnp.complex64
    harness.assert_close(updates["complex"], -3e-2 * grads["complex"])
    (_, stacks), *_ = optax.tree.get_all_with_path(state, "stacks")
    assert not any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(stacks))


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_complex_leaves_alone_are_trained(case):
    params = {"kernel": harness.normal((4, 3)) * (1 + 2j)}
    updates, _, state = harness.run_jitted(case.make(), params, [params] * 3)
    harness.assert_finite((updates, state))
    assert updates[-1]["kernel"].dtype == jnp.complex64
    assert np.any(updates[-1]["kernel"])

"""Numbers of mapped, replicated and unserved states, against those of each model alone."""

import warnings

import flax.jax_utils
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond

SHAPES = {"kernel": (4, 3), "bias": (3,)}


def params_of(seed):
    keys = jax.random.split(jax.random.key(seed), len(SHAPES))
    return {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, SHAPES.items(), strict=True)}


def after(tx, seeds, *, bad=None):
    """The states of some models after three steps, alone; the gradient of one is not finite in one step."""
    states, update = [], jax.jit(tx.update)
    for seed in seeds:
        params = params_of(seed)
        state = tx.init(params)
        for step in range(3):
            grads = jax.tree.map(lambda x, step=step: x * (1 + step), params)
            if seed == bad and step == 1:
                grads = jax.tree.map(lambda x: x * jnp.nan, grads)
            state = update(grads, state, params)[1]
        states.append(state)
    return states


def adascale(rate):
    return precond.large_batches.differenced(precond.adascale(precond.shampoo, rate, scale=2))


@pytest.mark.parametrize("make", [precond.shampoo, precond.muon, precond.mfac, adascale])
def test_a_mapped_state_has_the_largest_number_of_its_models(make):
    states = after(make(1e-2), (0, 1, 2), bad=1)
    alone = [precond.metrics(state) for state in states]
    expected = {key: max(float(numbers[key]) for numbers in alone) for key in alone[0]}
    mapped = precond.metrics(jax.tree.map(lambda *x: jnp.stack(x), *states))
    assert all(x.shape == () for x in mapped.values())
    assert {key: float(x) for key, x in mapped.items()} == expected
    if "blocks/skipped" in expected:
        assert expected["blocks/skipped"] > 0  # of one model alone


def test_a_replicated_state_has_the_numbers_of_one_replica():
    (state,) = after(precond.shampoo(1e-2), (1,), bad=1)
    one, all_of_them = precond.metrics(state), precond.metrics(flax.jax_utils.replicate(state))
    assert {key: float(x) for key, x in all_of_them.items()} == {key: float(x) for key, x in one.items()}
    assert one["blocks/skipped"] == 2  # the matrix, and all other parameters


def test_a_state_that_is_mapped_twice():
    (state,) = after(precond.shampoo(1e-2), (0,))
    twice = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, 3, *jnp.shape(x))), state)
    np.testing.assert_array_equal(precond.metrics(twice)["roots/residual"], precond.metrics(state)["roots/residual"])


def test_factors_that_nobody_takes_are_counted_and_told():
    tx, params = precond.shampoo(1e-2, refresh=precond.on_host(2)), params_of(0)
    state, update, seen = tx.init(params), jax.jit(tx.update), []
    for step in range(1, 8):
        state = update(params, state, params)[1]
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            seen.append(int(precond.metrics(state)["host/unserved"]))
        assert len(told) == (seen[-1] > 0), step
    assert seen == [0, 0, 0, 1, 1, 2, 2]
    assert int(jax.jit(precond.metrics)(state)["host/unserved"]) == 2  # without a warning, as an error would be one


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (optax.adam(1e-3), "where its state belongs"),
        (precond.shampoo(1e-3), r"precond.shampoo\(0.001\), where its state belongs"),
        ({"kernel": np.ones(3)}, "no state of an optimizer in it"),
    ],
)
def test_what_is_no_state_is_refused(state, words):
    with pytest.raises(TypeError, match=words):
        precond.metrics(state)


def test_states_without_anything_of_ours_have_no_numbers():
    assert precond.metrics(optax.adam(1e-3).init(params_of(0))) == {}


def diagonal_gradients(small):
    """Gradients of two matrices in one stack, and of one in another; the condition of their factors is 1 / small^2."""
    pair = {name: jnp.diag(jnp.asarray([1.0, x])) for name, x in zip("ab", small[:2], strict=True)}
    return pair | {"c": jnp.diag(jnp.asarray([1.0, 1.0, small[2]])), "bias": jnp.ones(3)}


def test_roots_are_told_by_parameter_and_axis():
    grads = diagonal_gradients([0.5, 0.1, 0.2])
    parts = precond.outer_products(), precond.inverse_root(damping=precond.relative(0.0))
    tx = precond.blocked(precond.scale_by_kronecker(*parts))
    _, state = jax.jit(tx.update)(grads, tx.init(grads))
    found = precond.metrics(state, grads)
    conditions = {key: float(x) for key, x in found.items() if key.startswith("roots/condition/")}
    wanted = {"a": 4, "b": 100, "c": 25}
    expected = {f"roots/condition/{name}/{axis}": x for name, x in wanted.items() for axis in (0, 1)}
    assert conditions == pytest.approx(expected, rel=1e-4)
    assert found["roots/condition"] == pytest.approx(100, rel=1e-4)
    with pytest.raises(ValueError, match=r"outside of jax.jit and of one model"):
        jax.jit(precond.metrics)(state, grads)
    with pytest.raises(ValueError, match=r"outside of jax.jit and of one model"):
        precond.metrics(jax.tree.map(lambda x: jnp.stack([x, x]), state), grads)


def test_refusals_in_a_row_are_counted_until_a_root_is_accepted():
    def tx(tolerance):
        return precond.blocked(precond.scale_by_kronecker(precond.outer_products(), root(tolerance)))

    root, grads = (lambda tolerance: precond.inverse_root(tolerance=tolerance)), {"a": jnp.eye(2)}
    refusing, accepting = jax.jit(tx(0.0).update), jax.jit(tx(0.5).update)
    state, rows = tx(0.0).init(grads), []
    for update in (refusing, refusing, accepting, refusing):
        _, state = update(grads, state)
        found = precond.metrics(state, grads)
        rows.append(int(found["roots/refused_in_a_row"]))
        assert found["roots/refused_in_a_row/a/0"] == rows[-1]
    assert rows == [1, 2, 0, 1]

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

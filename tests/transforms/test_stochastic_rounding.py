"""Rounding by chance: to a neighbour, right in the mean, and the same chance for the same block and step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import precond

SHAPE = (6, 5, 4)


def stacks(dtype="float32"):
    rng = np.random.default_rng(0)
    draw = lambda: rng.standard_normal(SHAPE) * 10.0 ** rng.uniform(-20, 20, SHAPE)  # noqa: E731
    return {"first": jnp.asarray(draw(), dtype), "second": jnp.asarray(draw(), dtype)}


def updates_of(given, steps=1, **extra):
    tx = precond.transforms.stochastic_rounding()

    def step(state, _):
        out, state = tx.update(given, state, **extra)
        return state, out

    return jax.lax.scan(step, tx.init(given), length=steps)[1]


def test_every_entry_becomes_one_of_its_two_neighbours():
    given = stacks()
    for name, rounded in updates_of(given, 20).items():
        assert rounded.dtype == jnp.bfloat16
        x, near = np.asarray(given[name], np.float64), np.asarray(rounded, np.float64)
        assert np.all(np.abs(near - x) <= 2.0**-7 * np.abs(x))
        spacing = np.ptp(near, axis=0)
        assert np.all((spacing == 0) | (spacing >= 2.0**-8 * np.abs(x)))  # two neighbours, and nothing else


@pytest.mark.slow
def test_the_mean_over_steps_is_what_was_rounded():
    steps, given = 4000, stacks()
    for name, rounded in updates_of(given, steps).items():
        x = np.asarray(given[name], np.float64)
        relative = np.asarray(rounded, np.float64) / x - 1
        # A deviation of at most 2^-8 an entry; to the nearest, the mean over entries would be off by a part in 1000.
        assert np.abs(relative.mean(axis=0)).max() < 5 * 2.0**-8 / np.sqrt(steps)


def test_a_blocks_chance_is_its_own_wherever_it_stands():
    given = {name: jnp.full_like(x, 1 + 2.0**-8) for name, x in stacks().items()}
    whole = updates_of(given)
    rows = jnp.asarray([3, 1])
    some = updates_of(
        {n: x[rows] for n, x in given.items()}, blocks=precond.BlockInfo(index=dict.fromkeys(given, rows))
    )
    for name, x in whole.items():
        np.testing.assert_array_equal(some[name][0], x[0][rows])
        assert len(np.unique(np.asarray(x[0], np.float32).reshape(len(rows) * 3, -1), axis=0)) == SHAPE[0]
    assert np.any(whole["first"] != whole["second"])


def test_what_is_no_number_or_exact_stays():
    given = {"x": jnp.asarray([[0.0, -0.0, jnp.inf, -jnp.inf, 1.5, -2.0]])}
    np.testing.assert_array_equal(updates_of(given)["x"][0].astype(jnp.float32), given["x"])
    # A NaN whose upper half is all ones would be carried beyond the last bit.
    nan = jax.lax.bitcast_convert_type(jnp.full((3, 3), 0x7FFFFFFF, jnp.uint32), jnp.float32)
    assert np.all(np.isnan(updates_of({"x": nan})["x"]))


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="seed=-1"):
        precond.transforms.stochastic_rounding(-1)

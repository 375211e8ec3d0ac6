"""Statistics against sums of `np.tensordot` over the gradients seen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precond import kl, outer_products, scale_by_trace
from precond.linalg import dense
from tests import reference

pytestmark = pytest.mark.usefixtures("x64")


def run(statistics, gradients, **extra):
    """The factors after every gradient `[N, d1, ..]`, the stack being called `name`."""
    name = extra.pop("name", "stack")
    state, out = statistics.init({name: np.asarray(gradients[0])}), []
    update = jax.jit(lambda gradient, state: statistics.update(gradient, state, **extra))
    for g in gradients:
        factors, state = update({name: np.asarray(g)}, state)
        out.append(tuple(f if f is None else dense(f) for f in factors[name]))
    return out


def draws(shape, steps, seed=0):
    return np.random.default_rng(seed).standard_normal((steps, 3, *shape))


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    decay=st.sampled_from([0.0, 0.7, 1.0]),
    every=st.integers(1, 3),
    bias_correction=st.booleans(),
    initial=st.sampled_from([0.0, 0.5]),
)
def test_outer_products_are_weighted_sums_of_gram_matrices(shape, decay, every, bias_correction, initial):
    gradients = draws(shape, steps=5)
    statistics = outer_products(decay, every=every, bias_correction=bias_correction, initial=initial)
    factors = run(statistics, gradients)[-1]
    seen = gradients[::every]
    weights = decay ** np.arange(len(seen) - 1, -1, -1) * (1.0 if decay == 1 else 1 - decay)
    debiased = bias_correction and decay < 1 and initial == 0
    divisor = 1 - decay ** len(seen) if debiased else 1.0
    for axis, d in enumerate(shape):
        for n in range(3):
            total = sum(w * reference.gram(g[n], axis) for w, g in zip(weights, seen, strict=True))
            expected = (total + decay ** len(seen) * initial * np.eye(d)) / divisor
            np.testing.assert_allclose(factors[axis][n], expected, rtol=1e-12, atol=1e-12)


def test_a_given_weight_replaces_the_default_and_its_bias_correction():
    gradients = draws((2, 3), steps=2)
    factor = run(outer_products(0.9, weight=1.0), gradients)[-1][0][0]
    expected = 0.9 * reference.gram(gradients[0][0], 0) + reference.gram(gradients[1][0], 0)
    np.testing.assert_allclose(factor, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "axes", "used"),
    [
        ("2x3x4", None, [0, 1, 2]),
        ("2x3x4", [-1], [2]),
        ("2x3x4", lambda k: range(k - 1), [0, 1]),
        ("(2)x3x4", None, [1, 2]),
        ("(2)x3x4", [0, 1], [1]),
    ],
)
def test_which_axes_have_factors(name, axes, used):
    factors = run(outer_products(axes=axes), draws((2, 3, 4), steps=1), name=name)[0]
    assert [i for i, f in enumerate(factors) if f is not None] == used


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), mean=st.booleans(), seed=st.integers(0, 9))
def test_kl_sees_the_gradient_whitened_on_all_other_axes(shape, mean, seed):
    gradients = draws(shape, steps=2, seed=seed)
    whiteners = [np.random.default_rng(seed + 1).standard_normal((3, d, d)) for d in shape]
    factors = run(kl(1.0, mean=mean), gradients, whiten=lambda name, axis, factor: jnp.asarray(whiteners[axis]))[-1]
    for axis, d in enumerate(shape):
        for n in range(3):
            others = [None if i == axis else w[n] for i, w in enumerate(whiteners)]
            terms = [reference.gram(reference.kron_multiply(g[n], others), axis) for g in gradients]
            divisor = np.prod(shape) / d if mean else 1
            np.testing.assert_allclose(factors[axis][n], sum(terms) / divisor, rtol=1e-11, atol=1e-11)


def test_optax_transformations_may_stand_before_and_behind_a_statistic():
    gradients = draws((2, 2), steps=1)
    statistics = optax.chain(optax.scale(2.0), outer_products(1.0), scale_by_trace(1.0))
    factor = run(statistics, gradients)[0][0][0]
    expected = reference.gram(gradients[0][0], 0)
    np.testing.assert_allclose(factor, expected / np.trace(expected), rtol=1e-12)


def test_factors_of_half_precision_gradients_are_float32():
    stacks = {"2x2": jnp.ones((1, 2, 2), jnp.bfloat16)}
    statistics = outer_products()
    factors, state = statistics.update(stacks, statistics.init(stacks))
    assert {f.dtype for f in (*factors["2x2"], *state.factors["2x2"])} == {jnp.dtype("float32")}


def test_packed_factors_are_the_same_in_half_the_memory():
    stacks = {"4x5": jnp.asarray(draws((4, 5), steps=1)[0])}
    statistics = outer_products()
    state = statistics.init(stacks)
    factors = statistics.update(stacks, state)[0]["4x5"]
    for axis, (d, factor) in enumerate(zip((4, 5), factors, strict=True)):
        assert sum(x[0].size for x in jax.tree.leaves(factor)) == d * (d + 1) // 2
        for n in range(3):
            expected = 0.01 * reference.gram(np.asarray(stacks["4x5"][n]), axis) / (1 - 0.99)
            np.testing.assert_allclose(dense(factor)[n], expected, rtol=1e-12)


def test_kl_alone_says_where_it_belongs():
    stacks = {"2x2": jnp.ones((1, 2, 2))}
    with pytest.raises(TypeError, match="put it there, scale_by_kronecker"):
        kl().update(stacks, kl().init(stacks))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"decay": 1.1}, ValueError, r"decay=1.1: must lie between 0 and 1. 1 sums"),
        ({"decay": "0.9"}, TypeError, "decay='0.9': must be a number"),
        ({"decay": float("nan")}, ValueError, "decay=nan"),
        ({"initial": -1.0}, ValueError, "initial=-1.0: must be at least 0"),
        ({"every": 0}, ValueError, "every=0: must be at least 1"),
        ({"every": 2.0}, TypeError, "every=2.0: must be a whole number"),
        ({"every": jnp.asarray(2)}, TypeError, "static_args=precond.static_args"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(arguments, error, message):
    for make in (outer_products, kl):
        with pytest.raises(error, match=message):
            make(**arguments)


def test_positions_that_a_block_has_not_are_left_out():
    matrix, vector = {"m": jnp.ones((1, 2, 3))}, {"v": jnp.ones((1, 4))}
    there = [
        [f is not None for f in outer_products(axes=axes).init(stack).factors[name]]
        for stack, name, axes in ((matrix, "m", [2]), (matrix, "m", [-1]), (vector, "v", [0, 1]), (vector, "v", [-2]))
    ]
    assert there == [[False, False], [False, True], [True], [False]]


def test_a_gradient_that_is_infinite_once_it_is_whitened_is_left_out_with_all_axes():
    usual = np.random.default_rng(0).uniform(1e-3, 2e-3, (3, 2, 3, 2)).astype(np.float32)
    spiked = usual.copy()
    spiked[1, 1] = 1e17  # its square is finite, and that of 1e3 times as much is not

    def white(name, axis, factor):
        return 1e3 * jnp.broadcast_to(jnp.eye(factor.shape[-1], dtype=factor.dtype), factor.shape)

    for decay in (0.9, 1.0):
        after, usual_end = (run(kl(decay), gradients, whiten=white)[-1] for gradients in (spiked, usual))
        alone = run(kl(decay), usual[::2], whiten=white)[-1]
        for new, other, mine in zip(after, usual_end, alone, strict=True):
            np.testing.assert_array_equal(new[0], other[0])
            np.testing.assert_allclose(new[1], mine[1], rtol=1e-6)


def test_a_sum_that_grows_beyond_its_type_stays_finite():
    factors = run(outer_products(1.0), np.full((5, 1, 2, 2), 1e19, np.float32))[-1]
    for factor in factors:
        np.testing.assert_array_equal(factor, np.finfo(np.float32).max)

"""The accumulation rule against its closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precond.linalg import average, batch_norm


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("weight", [None, 0.5])
def test_an_average_is_the_weighted_sum_of_its_terms(decay, weight):
    terms = np.random.default_rng(0).standard_normal(7)
    total = jnp.zeros(())
    for x in terms:
        total = average(total, jnp.asarray(x), decay, weight)
    rate = weight or (1.0 if decay == 1 else 1 - decay)
    np.testing.assert_allclose(total, rate * np.sum(decay ** np.arange(6, -1, -1) * terms), rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999, 1.0])
def test_a_counted_average_is_the_weighted_mean_and_a_sum_the_sum(decay):
    terms = np.random.default_rng(0).standard_normal(7)
    total = jnp.zeros(())
    for t, x in enumerate(terms, 1):
        total = average(total, jnp.asarray(x), decay, count=jnp.asarray(t))
    weights = decay ** np.arange(6, -1, -1)
    expected = np.sum(terms) if decay == 1 else np.sum(weights * terms) / np.sum(weights)
    np.testing.assert_allclose(total, expected, rtol=1e-12)


def test_an_average_keeps_its_dtype():
    assert average(jnp.zeros(3, jnp.float32), jnp.ones(3, jnp.bfloat16), 0.9).dtype == jnp.float32


@pytest.mark.parametrize("exponent", range(-36, 37, 4))
def test_a_norm_neither_overflows_nor_vanishes(exponent):
    x = np.asarray(np.random.default_rng(0).standard_normal((2, 5, 7)) * 10.0**exponent, np.float32)
    expected = np.sqrt(np.sum(np.square(x.astype(np.float64)), axis=(1, 2), keepdims=True))
    np.testing.assert_allclose(batch_norm(jnp.asarray(x), batch_axes=1), expected, rtol=1e-5)
    assert batch_norm(jnp.zeros((0, 3))).shape == (1, 1)


@pytest.mark.parametrize("value", [0.0, 1e-38, -1e-12, 3.0, 1e12, -1e38])
def test_a_norm_of_one_number_is_its_size_in_a_program_too(value):
    for shape, axes in (((1,), 0), ((2, 1, 1), 1), ((3,), 1)):
        norm = jax.jit(batch_norm, static_argnums=1)(jnp.full(shape, value), axes)
        np.testing.assert_array_equal(norm, np.full(shape, abs(np.float32(value))))


@pytest.mark.usefixtures("x64")
def test_the_derivative_of_a_norm_is_the_direction_and_0_at_zeros():
    x = jnp.asarray([[3.0, 4.0], [0.0, 0.0]])
    slopes = jax.jit(jax.grad(lambda x: jnp.sum(batch_norm(x, 1))))(x)
    np.testing.assert_allclose(slopes, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-15)
    twice = jax.jit(jax.hessian(lambda x: jnp.sum(batch_norm(x, 1))))(x[:1])[0, :, 0]
    np.testing.assert_allclose(twice, (np.eye(2) - np.outer(x[0] / 5, x[0] / 5)) / 5, rtol=1e-12)
    assert batch_norm(jnp.asarray([3.0 + 4.0j, 12.0])).item() == 13.0

"""The largest eigenvalue by Lanczos and by squaring: on known spectra, at any scale, and never above."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precond.linalg import largest_eigenvalue
from precond.linalg.largest_eigenvalue import _by_squaring
from tests import reference

pytestmark = pytest.mark.platforms

LARGEST = jax.jit(largest_eigenvalue, static_argnums=1)


def spectra(n):
    """Those with a gap below the largest eigenvalue."""
    return {
        "geometric": np.geomspace(1e-4, 1, n),
        "graded": np.geomspace(1e-12, 1, n),
        "rank one": np.r_[np.zeros(n - 1), 1.0],
        "twice": np.r_[np.linspace(0, 0.5, n - 2), 1.0, 1.0],
        "identity": np.ones(n),
        "two clusters": np.r_[np.full(n // 2, 0.1), np.ones(n - n // 2)],
    }


def stack_of(values, dtype, copies=4):
    """Matrices of one spectrum, and their largest eigenvalues after rounding."""
    rngs = [np.random.default_rng(seed) for seed in range(copies)]
    matrices = np.stack([reference.matrix_of_spectrum(values, rng) for rng in rngs]).astype(dtype)
    matrices = (matrices + np.swapaxes(matrices, 1, 2)) / 2
    return jnp.asarray(matrices), np.linalg.eigvalsh(matrices.astype(np.float64))[:, -1]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [3, 12, 24, 64])
def test_it_is_exact_on_spectra_with_a_gap(n, dtype):
    for name, values in spectra(n).items():
        stack, exact = stack_of(values, dtype)
        # In float64 the two copies that rounding makes of an eigenvalue are told apart to 1e-8.
        np.testing.assert_allclose(LARGEST(stack), exact, rtol=3e-6 if dtype == np.float32 else 3e-8, err_msg=name)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("n", [64, pytest.param(256, marks=pytest.mark.slow)])
@pytest.mark.parametrize("steps", [8, 24])
def test_without_a_gap_it_is_within_a_tenth_and_more_steps_come_closer(n, steps):
    for values in (np.linspace(0, 1, n), np.sqrt(np.linspace(0, 1, n)), np.r_[np.linspace(0, 0.99, n - 1), 1.0]):
        stack, exact = stack_of(values, np.float64)
        found = np.asarray(LARGEST(stack, steps))
        assert (found < exact).all()
        assert (found > (0.98 if steps == 24 else 0.8) * exact).all()
        assert (np.asarray(LARGEST(stack, steps + 8)) >= found).all()


@given(
    values=st.lists(st.floats(0, 1, width=32), min_size=7, max_size=7),
    seed=st.integers(0, 99),
    steps=st.sampled_from([2, 7, 24]),
)
def test_it_is_never_above_but_for_rounding(values, seed, steps):
    a = reference.matrix_of_spectrum(np.asarray(values), np.random.default_rng(seed)).astype(np.float32)
    exact = np.linalg.eigvalsh((a + a.T).astype(np.float64) / 2)[-1]
    found = LARGEST(jnp.asarray(a + a.T)[None] / 2, steps)[0].item()
    assert found <= exact * (1 + 5e-6) + 1e-30
    assert steps < 7 or found >= 0.999 * exact - 1e-30


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
def test_a_multiple_has_the_multiple(scale):
    stack, exact = stack_of(np.geomspace(1e-3, 1, 12), np.float32)
    np.testing.assert_allclose(LARGEST(stack * np.float32(scale)), scale * exact, rtol=3e-6)


def test_zero_matrices_and_those_of_size_one():
    assert LARGEST(jnp.zeros((2, 5, 5))).tolist() == [0, 0]
    assert LARGEST(jnp.asarray([0.0, 3.0, 7e5])[:, None, None]).tolist() == [0, 3, 7e5]


def test_padding_changes_nothing_but_the_start():
    stack, exact = stack_of(np.geomspace(1e-3, 1, 12), np.float32)
    np.testing.assert_allclose(LARGEST(jnp.pad(stack, ((0, 0), (0, 9), (0, 9)))), exact, rtol=3e-6)


def test_a_matrix_of_nan_says_so_and_others_are_unaffected():
    stack, exact = stack_of(np.geomspace(1e-3, 1, 12), np.float32)
    found = np.asarray(LARGEST(stack.at[1].set(jnp.nan)))
    assert np.isnan(found[1])
    np.testing.assert_allclose(np.delete(found, 1), np.delete(exact, 1), rtol=3e-6)


SQUARED = jax.jit(_by_squaring, static_argnums=1)


@pytest.mark.parametrize("n", [3, 24, 64])
def test_by_squaring_it_is_as_exact_where_there_is_a_gap(n):
    for name, values in spectra(n).items():
        stack, exact = stack_of(values, np.float32)
        for scale in (1e-6, 1.0, 1e6):
            found = SQUARED(stack * np.float32(scale), 8)
            np.testing.assert_allclose(found, scale * exact, rtol=5e-6, err_msg=name)


@pytest.mark.parametrize("n", [64, 256])
def test_by_squaring_it_is_within_a_hundredth_without_a_gap(n):
    for values in (np.linspace(0, 1, n), np.sqrt(np.linspace(0, 1, n)), np.r_[np.linspace(0, 0.99, n - 1), 1.0]):
        stack, exact = stack_of(values, np.float32)
        found = np.asarray(SQUARED(stack, 8))
        assert (found <= exact * (1 + 5e-6)).all()
        assert (found > 0.99 * exact).all()


def test_by_squaring_zero_matrices_have_0_and_those_of_nan_say_so():
    assert SQUARED(jnp.zeros((2, 5, 5)), 8).tolist() == [0, 0]
    stack, exact = stack_of(np.geomspace(1e-3, 1, 12), np.float32)
    found = np.asarray(SQUARED(stack.at[1].set(jnp.nan), 8))
    assert np.isnan(found[1])
    np.testing.assert_allclose(np.delete(found, 1), np.delete(exact, 1), rtol=5e-6)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_nothing_is_decomposed_and_elsewhere_few_products_are_taken(platform):
    traced = jax.jit(largest_eigenvalue).trace(jnp.zeros((3, 40, 40)))
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "custom_call" not in program
    assert platform == "cpu" or program.count("dot_general") == 2  # that of the loop, and one more

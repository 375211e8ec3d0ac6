"""What every inverse root must obey, by whatever method: scale, permutation, rotation, padding, symmetry."""

from fractions import Fraction
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precond import composite, eigh, inverse_root, newton, relative
from precond.roots.guard import unchecked
from tests import reference

METHODS = {"eigh": eigh(), "newton": newton(), "composite": composite()}
FEW = [Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(2, 3)]
POWERS = [Fraction(1, p) for p in (1, 2, 3, 4, 6, 8)] + [Fraction(2, 3), Fraction(3, 8)]
N, EPS = 6, 1e-3

STACK = 7  # all stacks are of one length, so that every method is compiled once for every power

methods = st.sampled_from(list(METHODS))
powers = st.sampled_from(FEW)
dtypes = st.sampled_from([np.float32, np.float64])
seeds = st.integers(0, 999)
# Powers of ten from which a spectrum is made: graded, clustered, of low rank (minus infinity).
exponents = st.lists(st.sampled_from([0.0, -0.01, -1.0, -2.0, -3.0, -9.0, -np.inf]), min_size=N - 1, max_size=N - 1)

pytestmark = pytest.mark.usefixtures("x64")


@cache
def refresh(name, power):
    root = inverse_root(method=METHODS[name], damping=relative(EPS))
    # Many small programs, that run a few times each: most of their time is LLVM's.
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    function = lambda a: root.refresh(a, unchecked(a), power, jnp.asarray(True))  # noqa: E731
    return jax.jit(function, compiler_options=quick)


def roots_of(matrices, name, power, dtype=np.float64):
    """Of some matrices, all of them accepted, in float64."""
    filled = [*matrices, *[np.eye(N)] * (STACK - len(matrices))]
    new = refresh(name, power)(jnp.asarray(np.stack(filled), dtype))
    assert not np.any(new.health.refused)
    assert new.matrix.dtype == dtype
    return np.asarray(new.matrix, np.float64)[: len(matrices)]


def matrix_of(powers_of_ten, seed, dtype=np.float64):
    """Rounded to a dtype; its largest eigenvalue is about 1."""
    a = reference.matrix_of_spectrum(10.0 ** np.asarray([0.0, *powers_of_ten]), np.random.default_rng(seed))
    return ((a + a.T) / 2).astype(dtype).astype(np.float64)


def exact(a, power):
    return reference.power(a, -float(power), EPS * np.linalg.eigvalsh(a)[-1])


def assert_close(x, y, tolerance):
    """Relative to the largest, in the spectral norm."""
    assert np.linalg.norm(x - y, 2) <= tolerance * np.linalg.norm(y, 2)


def accuracy(dtype):
    """Rounding times the condition number; in float64, of the ridge, whose largest eigenvalue is an estimate."""
    return 1e-3 if dtype == np.float32 else 1e-7


@given(exponents, seeds, methods, powers, dtypes)
@settings(max_examples=50)
def test_it_is_the_root_of_the_damped_matrix_and_symmetric_to_the_last_bit(spectrum, seed, name, power, dtype):
    a = matrix_of(spectrum, seed, dtype)
    (found,) = roots_of([a], name, power, dtype)
    np.testing.assert_array_equal(found, found.T)
    assert_close(found, exact(a, power), accuracy(dtype))


@given(exponents, seeds, methods, powers, st.lists(st.integers(-66, 66), min_size=3, max_size=3))
def test_the_root_of_a_multiple_is_the_multiple_of_the_root(spectrum, seed, name, power, exponents_of_two):
    a = matrix_of(spectrum, seed, np.float32)
    scales = 2.0 ** np.asarray([0, *exponents_of_two])  # up to 1e20, without rounding the matrix itself
    found = roots_of([a * scale for scale in scales], name, power, np.float32)
    for x, scale in zip(found, scales, strict=True):
        assert_close(x * scale ** float(power), found[0], 1e-5)


@pytest.mark.parametrize("power", POWERS, ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_at_twenty_powers_of_ten_either_way(name, power):
    a = matrix_of([-0.1, -0.1, -0.5, -0.5, -1.0], 0, np.float32)
    scales = 10.0 ** np.asarray([0, -20, -10, -3, 3, 10, 20])
    found = roots_of([a * scale for scale in scales], name, power, np.float32)
    for x, scale in zip(found, scales, strict=True):
        assert_close(x * scale ** float(power), found[0], 1e-5)


@given(exponents, seeds, methods, powers)
def test_a_permutation_or_a_rotation_of_the_matrix_is_one_of_its_root(spectrum, seed, name, power):
    a, rng = matrix_of(spectrum, seed), np.random.default_rng(seed)
    order, q = rng.permutation(N), np.linalg.qr(rng.standard_normal((N, N)))[0]
    turned = q @ a @ q.T
    root, permuted, rotated = roots_of([a, a[order][:, order], (turned + turned.T) / 2], name, power)
    assert_close(permuted, root[order][:, order], 1e-7)
    assert_close(rotated, q @ root @ q.T, 1e-7)


@given(seeds, st.integers(1, N - 1), methods, powers, dtypes)
def test_padding_with_zeros_leaves_the_leading_block_as_it_is(seed, size, name, power, dtype):
    block = reference.matrix_of_spectrum(np.geomspace(1, 1e-3, size), np.random.default_rng(seed))
    padded = np.zeros((N, N))
    padded[:size, :size] = ((block + block.T) / 2).astype(dtype)
    (found,) = roots_of([padded], name, power, dtype)
    assert_close(found[:size, :size], exact(padded[:size, :size], power), accuracy(dtype))
    assert np.abs(found[:size, size:]).max() <= 1e-6 * np.abs(found).max()


@given(seeds, methods, powers)
def test_the_order_and_the_company_in_a_stack_do_not_matter(seed, name, power):
    rng = np.random.default_rng(seed)
    stack = [matrix_of(rng.uniform(-4, 0, N - 1), seed + i) for i in range(STACK)]
    order = rng.permutation(STACK)
    found = roots_of(stack, name, power)
    np.testing.assert_allclose(roots_of([stack[i] for i in order], name, power), found[order], rtol=1e-7, atol=1e-7)
    assert_close(roots_of(stack[2:3], name, power)[0], found[2], 1e-7)


@pytest.mark.parametrize("power", [Fraction(1, 2), Fraction(1, 3), Fraction(3, 4)], ids=str)
def test_one_by_one_matrices_are_exact(power):
    values = 10.0 ** np.arange(-30, 31)[:, None, None]
    for name in METHODS:
        found = refresh(name, power)(jnp.asarray(values)).matrix
        np.testing.assert_allclose(found, (values * (1 + EPS)) ** -float(power), rtol=1e-12)


@pytest.mark.parametrize(
    ("power", "dtype"),
    [(power, np.float32) for power in POWERS] + [(power, np.float64) for power in FEW],
    ids=str,
)
@pytest.mark.parametrize("name", METHODS)
def test_zero_rank_one_and_nearly_diagonal_matrices_in_one_stack(name, power, dtype):
    rng = np.random.default_rng(0)
    v, noise = rng.standard_normal(N), 1e-7 * rng.standard_normal((N, N))
    nearly = np.diag(np.geomspace(1e-3, 1, N)) + noise + noise.T
    hard = [1e-12 * np.outer(v, v), np.ones((N, N)), np.eye(N), np.diag([1.0, 1.0, 1.0, 0.5, 0.5, 0.0]), nearly]
    hard = [a.astype(dtype).astype(np.float64) for a in hard]
    zero, *found = roots_of([np.zeros((N, N)), *hard], name, power, dtype)
    np.testing.assert_array_equal(zero, np.eye(N))
    for a, x in zip(hard, found, strict=True):
        assert_close(x, exact(a, power), accuracy(dtype))

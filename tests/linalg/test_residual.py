"""The certificate, beside the true spectral norm: for roots by every method, and for roots that are wrong."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precond.linalg import composite_root, coupled_newton, eigh_root, orthogonality_residual, root_residual
from tests import reference

RESIDUAL = jax.jit(root_residual, static_argnums=2)
EIGH = jax.jit(lambda a, power: eigh_root(a, power, lambda top: 0 * top)[0], static_argnums=1)
NEWTON = jax.jit(coupled_newton, static_argnums=1)
COMPOSITE = jax.jit(
    lambda a, power, least: composite_root(a, power, lambda top: 0 * top, least=least)[0], static_argnums=(1, 2)
)
N, COPIES = 48, 3


def damped(condition, dtype):
    """Matrices of a geometric spectrum with a ridge, rounded, and their eigenvectors."""
    rngs = [np.random.default_rng(seed) for seed in range(COPIES)]
    matrices = [reference.matrix_of_spectrum(np.geomspace(1 / condition, 1, N), rng) for rng in rngs]
    return np.stack([(a + a.T) / 2 + np.eye(N) / condition for a in matrices]).astype(dtype)


def truth(x, a, p):
    """The spectral norm in float64 of what `root_residual` estimates."""
    x, a = np.asarray(x, np.float64), np.asarray(a, np.float64)
    if not np.isfinite(x).all():
        return np.inf
    left, right = np.linalg.matrix_power(x, p - p // 2), np.linalg.matrix_power(x, p // 2)
    return np.linalg.norm(left @ a @ right - np.eye(len(a)), 2)


def by_all_methods(stack, power, least):
    zero = jnp.zeros(len(stack), stack.dtype)
    return EIGH(stack, float(power)), NEWTON(stack, power, zero), COMPOSITE(stack, power, least)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("p", [1, 2, 4, *(pytest.param(p, marks=pytest.mark.slow) for p in (3, 6, 8))])
@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
def test_it_is_the_norm_within_a_factor_of_two_for_the_roots_of_all_methods(p, dtype):
    seen = []
    for condition in (1e2, 1e4, 1e6, 1e8, 1e10):
        matrices = damped(condition, dtype)
        for roots in by_all_methods(jnp.asarray(matrices), Fraction(1, p), 0.4 / condition):
            estimates = RESIDUAL(roots, jnp.asarray(matrices), Fraction(1, p))
            for x, a, estimate in zip(roots, matrices, np.asarray(estimates), strict=True):
                exact = truth(x, a, p)
                if exact > 1e3:  # of no use, not finite, or so far off that to square it overflows
                    assert not estimate < 100
                else:
                    seen.append(estimate / exact)
    assert len(seen) > 25
    assert 0.5 < min(seen) < max(seen) < 2


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("p", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6, 1e8, 1e10])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_errors_of_five_percent_are_found_in_all_directions_or_in_one(dtype, condition, p):
    matrices = damped(condition, dtype)
    values, vectors = np.linalg.eigh(matrices.astype(np.float64))
    if values.min() < 0.1 / condition:
        pytest.skip("rounding to float32 leaves it without a root")
    for direction in (0, N // 2, N - 1, None):
        factor = np.ones(N)
        factor[slice(None) if direction is None else direction] = 1.05
        wrong = (vectors * (factor * values ** (-1 / p))[:, None]) @ np.swapaxes(vectors, 1, 2)
        wrong = wrong.astype(dtype)
        exact = np.asarray([truth(x, a, p) for x, a in zip(wrong, matrices, strict=True)])
        found = np.asarray(RESIDUAL(jnp.asarray(wrong), jnp.asarray(matrices), Fraction(1, p)))
        # The products with A round to eps |A|, and X carries it to where A is least.
        rounding = 0.1 * np.finfo(dtype).eps * condition
        assert (found < 2 * exact + rounding).all()
        assert (found > exact / 2 - rounding).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("power", [Fraction(1, 2), Fraction(2, 3), Fraction(3, 4), Fraction(2)], ids=str)
def test_rational_powers_and_the_exact_root(power):
    values = np.geomspace(1e-3, 1, N)
    a = reference.matrix_of_spectrum(values, np.random.default_rng(0))
    stack, root = jnp.asarray(a)[None], reference.power(a, -float(power))
    assert RESIDUAL(jnp.asarray(root)[None], stack, power)[0] < 1e-8
    expected = 1.05**power.denominator - 1
    np.testing.assert_allclose(RESIDUAL(jnp.asarray(1.05 * root)[None], stack, power)[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "power", [Fraction(3, 8), Fraction(2, 3), Fraction(3, 4), Fraction(5, 8), Fraction(1, 4)], ids=str
)
def test_accurate_roots_in_float32_are_believed_for_every_power(power):
    a = damped(1e6, np.float32)
    values, vectors = np.linalg.eigh(a.astype(np.float64))
    roots = (vectors * (values ** -float(power))[:, None]) @ np.swapaxes(vectors, 1, 2)
    assert (RESIDUAL(jnp.asarray(roots, jnp.float32), jnp.asarray(a), power) < 0.02).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["root", "matrix"])
def test_what_is_not_finite_is_never_certified_and_the_others_are_unaffected(bad, where):
    stack = jnp.broadcast_to(jnp.eye(6), (3, 6, 6))
    spoilt = stack.at[1, 2, 3].set(bad)
    x, a = (spoilt, stack) if where == "root" else (stack, spoilt)
    found = RESIDUAL(x, a, Fraction(1, 2))
    assert not found[1] <= jnp.finfo(jnp.float32).max
    assert found[jnp.asarray([0, 2])].tolist() == [0, 0]


def test_zero_is_not_the_root_of_anything_nor_is_the_root_of_another():
    a = jnp.asarray(damped(1e3, np.float32))
    np.testing.assert_allclose(RESIDUAL(0 * a, a, Fraction(1, 4)), 1, rtol=1e-5)
    roots = by_all_methods(a, Fraction(1, 4), 4e-4)[0]
    assert (RESIDUAL(roots[::-1], a, Fraction(1, 4))[jnp.asarray([0, 2])] > 1).all()


def test_matrices_smaller_than_the_number_of_probes():
    for n in (1, 2, 5):
        a = jnp.full((1, 1, 1), 4.0) * jnp.eye(n)
        np.testing.assert_allclose(RESIDUAL(0.5 * 1.05 * jnp.eye(n)[None], a, Fraction(1, 2)), 0.1025, rtol=1e-4)


def newton_as_in_the_books(a, p, iterations=60):
    """In float32, without symmetrisation, until its own criterion is content: X and `max |M - I|`."""
    identity = np.eye(len(a), dtype=np.float32)
    z = np.float32((1 + p) / (2 * np.linalg.norm(a)))
    m, x, watched = z * a, z ** np.float32(1 / p) * identity, np.inf
    for _ in range(iterations):
        n = np.float32(1 + 1 / p) * identity - m / np.float32(p)
        new = np.linalg.matrix_power(n, p) @ m
        error = np.abs(new - identity).max()
        if error > 1.2 * watched or watched < 1e-6:
            break
        m, x, watched = new, x @ n, error
    return x, watched


@pytest.mark.parametrize("p", [2, 4])
@pytest.mark.parametrize(("condition", "wrong"), [(1e7, 0.02), (1e8, 0.3)])
def test_what_newton_watches_certifies_nothing_and_this_does(condition, wrong, p):
    for a in damped(condition, np.float32):
        x, watched = newton_as_in_the_books(a, p)
        exact = truth(x, a, p)
        found = RESIDUAL(jnp.asarray(x)[None], jnp.asarray(a)[None], Fraction(1, p))[0].item()
        assert watched < 1e-6 < wrong < exact
        assert exact / 2 < found < 2 * exact


def test_of_a_basis_it_is_the_departure_from_orthonormality():
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((N, N)))[0]
    found = orthogonality_residual(jnp.asarray(np.stack([q, 1.02 * q, q * np.r_[1.1, np.ones(N - 1)]]), jnp.float32))
    assert found[0] < 1e-5
    np.testing.assert_allclose(found[1:], [1.02**2 - 1, 1.1**2 - 1], rtol=0.5)

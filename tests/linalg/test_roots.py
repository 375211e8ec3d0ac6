"""Inverse roots and bases on matrices of known spectrum, against LAPACK in float64."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precond.linalg import coupled_newton, eigen_basis, eigh_root, qr_basis
from tests import reference

BY_EIGH = jax.jit(lambda a, power, ridge: eigh_root(a, power, lambda top: ridge + 0 * top)[0], static_argnums=1)
BY_NEWTON = jax.jit(coupled_newton, static_argnums=1, static_argnames="tolerance")

POWERS = [Fraction(1), Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(1, 6), Fraction(1, 8), Fraction(2, 3)]


def spectrum(condition, n=12, seed=0):
    values = np.geomspace(1 / condition, 1, n)
    return values, reference.matrix_of_spectrum(values, np.random.default_rng(seed))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("power", POWERS, ids=str)
@pytest.mark.parametrize("condition", [1e1, 1e4])
def test_both_methods_give_the_root_of_the_damped_matrix(power, condition):
    _, a = spectrum(condition)
    ridge, stack = 1e-5, jnp.asarray(a)[None]
    expected = reference.power(a, -float(power), ridge)
    scale = np.abs(expected).max()
    by_eigh = BY_EIGH(stack, float(power), ridge)
    np.testing.assert_allclose(by_eigh[0], expected, rtol=0, atol=1e-12 * scale * condition**0.5)
    by_newton = BY_NEWTON(stack, power, jnp.asarray([ridge]), tolerance=1e-12)
    np.testing.assert_allclose(by_newton[0], expected, rtol=0, atol=1e-12 * scale * condition)


@pytest.mark.parametrize("power", [Fraction(1, 2), Fraction(1, 4)], ids=str)
def test_roots_in_float32_reach_the_error_that_the_condition_allows(power):
    _, a = spectrum(1e4, n=64)
    expected = reference.power(a, -float(power), 1e-6)
    stack = jnp.asarray(a, jnp.float32)[None]
    for result in (
        eigh_root(stack, float(power), lambda largest: 1e-6 * largest)[0],
        coupled_newton(stack, power, jnp.asarray([1e-6])),
    ):
        assert np.linalg.norm(result[0] - expected, 2) / np.linalg.norm(expected, 2) < 5e-3
        np.testing.assert_allclose(result[0], np.transpose(result[0]), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_newton_leaves_a_converged_matrix_alone_while_others_go_on():
    easy, hard = np.eye(6), spectrum(1e5, n=6)[1]
    both = jnp.asarray(np.stack([easy, hard]))
    together = coupled_newton(both, Fraction(1, 4), jnp.zeros(2))
    alone = coupled_newton(both[:1], Fraction(1, 4), jnp.zeros(1))
    np.testing.assert_array_equal(together[0], alone[0])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("p", [2, 3, 4, 8])
def test_newton_goes_on_where_the_largest_entry_grows_at_first(p):
    a = np.ones((6, 6))  # the largest entry of M - I is first 0.6 and then 0.9
    found = coupled_newton(jnp.asarray(a)[None], Fraction(1, p), jnp.asarray([1e-3]))[0]
    np.testing.assert_allclose(found, reference.power(a, -1 / p, 1e-3), rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_eigen_basis_diagonalises():
    values, a = spectrum(1e3)
    q = np.asarray(eigen_basis(jnp.asarray(a)[None])[0])
    np.testing.assert_allclose(q.T @ a @ q, np.diag(values), atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_repeated_qr_steps_converge_to_the_eigenbasis_and_columns_keep_their_places():
    values = np.array([1.0, 0.4, 0.1, 0.02])
    a = jnp.asarray(reference.matrix_of_spectrum(values, np.random.default_rng(1)))[None]
    exact = np.asarray(eigen_basis(a)[0])
    places = [2, 0, 3, 1]
    tilt = np.linalg.qr(np.eye(4) + 0.05 * np.random.default_rng(2).standard_normal((4, 4)))[0]
    basis = jnp.asarray(exact[:, places] @ tilt)[None]
    step = jax.jit(qr_basis)
    for _ in range(60):
        basis = step(a, basis)
    # Every column has become, up to its sign, the eigenvector that it was near, in the place where it stood.
    np.testing.assert_allclose(np.abs(exact[:, places].T @ np.asarray(basis[0])), np.eye(4), atol=1e-10)

"""Methods that follow an eigenbasis: their first step, their budget of decompositions, and their errors."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from precond import eigenbasis, eigh, inverse_root, qr
from precond.linalg import continued_eigen_basis, rotate_basis, scaled_off_diagonal
from precond.roots import cholesky_qr, rotations
from precond.roots.guard import Checked, unchecked
from precond.roots.padding import BASIS_PADDING
from tests import reference
from tests.drift import drifting, geometric_mean, recorded, root_error

pytestmark = pytest.mark.platforms

METHODS = [qr(), cholesky_qr(), rotations(), rotations(group=None)]


def stack(rows, n=6, seed=0):
    rng = np.random.default_rng(seed)
    values = np.geomspace(1e-2, 1, n)
    a = np.stack([reference.matrix_of_spectrum(values, rng) for _ in range(rows)])
    bases = np.stack([np.linalg.qr(q + 0.1 * rng.standard_normal((n, n)))[0] for q in np.linalg.eigh(a)[1]])
    return jnp.asarray(a), jnp.asarray(bases)


@functools.cache
def compiled(method):
    """The method's refresh, compiled once for all that have factors of one shape."""
    return jax.jit(method.basis)


def later(method, a, basis):
    return compiled(method)(a, basis, jnp.asarray(False))


def changed(a, basis, renewed, tolerance=1e-12):
    return np.flatnonzero(np.max(np.abs(renewed - rotate_basis(a, basis, 2)), axis=(1, 2)) > tolerance)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_the_first_refresh_diagonalises_and_later_ones_follow(method):
    a, basis = stack(3)
    first = compiled(method)(a, jnp.zeros_like(a), jnp.asarray(True))
    np.testing.assert_allclose(scaled_off_diagonal(a, first), 0, atol=1e-11)
    moved = later(method, a, basis)
    np.testing.assert_allclose(jnp.einsum("mij,mik->mjk", moved, moved), np.stack([np.eye(6)] * 3), atol=1e-13)
    assert np.all(scaled_off_diagonal(a, moved) < scaled_off_diagonal(a, basis))


PADDED = [method for method in (*METHODS, eigh()) if method.keeps_zeros]


def refreshed_among_larger(method, rank, dtype, size=12, larger=14):
    """Bases of moving averages over five refreshes, as they are and among larger matrices: pairs of both."""
    rng, root, factors = np.random.default_rng(5), eigenbasis(method=method), np.zeros((8, size, size))
    small = cropped = unchecked(jnp.zeros((8, size, size), dtype))
    refresh = jax.jit(lambda a, old, first: root.refresh(a, old, 1.0, first))
    for step in range(5):
        g = rng.standard_normal((8, size, rank))
        factors = 0.9 * factors + 0.1 * g @ np.swapaxes(g, 1, 2)
        a, first = jnp.asarray(factors, dtype), jnp.asarray(step == 0)
        small = refresh(a, small, first)
        wide = refresh(BASIS_PADDING.factor(a, larger), BASIS_PADDING.derived(cropped, larger), first)
        cropped = BASIS_PADDING.crop(wide, cropped)
        yield small.matrix, cropped.matrix, wide.matrix


def test_these_methods_keep_zeros_apart():
    assert [method.name for method in PADDED] == ["qr()", "cholesky_qr()", "rotations(group=None)", "eigh()"]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", PADDED, ids=lambda m: m.name)
def test_a_basis_among_larger_matrices_is_the_same_up_to_signs(method):
    for small, cropped, _ in refreshed_among_larger(method, 12, jnp.float64):
        signs = jnp.sign(jnp.sum(cropped * small, axis=1, keepdims=True))
        np.testing.assert_allclose(cropped, signs * small, atol=1e-11)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rank", [6, 3])
@pytest.mark.parametrize("method", PADDED, ids=lambda m: m.name)
def test_so_is_that_of_a_factor_with_rows_of_zeros(method, rank):
    a, basis = stack(3)
    if rank < 6:
        a = jnp.pad(a[:, :rank, :rank], ((0, 0), (0, 6 - rank), (0, 6 - rank)))
        basis = jnp.linalg.qr(basis.at[:, rank:].set(0).at[:, :, rank:].set(0) + jnp.diag(jnp.arange(6) >= rank))[0]
    old = Checked(basis, unchecked(a).health)
    wide = BASIS_PADDING.factor(a, 9), BASIS_PADDING.derived(old, 9).matrix
    for first in (jnp.asarray(True), jnp.asarray(False)):
        small, large = compiled(method)(a, basis, first), compiled(method)(*wide, first)
        cropped = BASIS_PADDING.crop(Checked(large, old.health), old).matrix
        signs = jnp.sign(jnp.sum(cropped * small, axis=1, keepdims=True))
        np.testing.assert_allclose(cropped, signs * small, atol=1e-11)
        np.testing.assert_allclose(jnp.abs(large[:, :, :3]), jnp.eye(9)[None, :, 6:].repeat(3, 0), atol=1e-13)


# Of a low rank rounding chooses the rest of a basis, but it must not reach the zeros, nor come from them.
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("method", PADDED, ids=lambda m: m.name)
def test_no_rounding_goes_between_a_basis_and_the_zeros_beside_it(method, rank):
    for _, cropped, wide in refreshed_among_larger(method, rank, jnp.float32):
        assert max(jnp.abs(wide[:, :12, :2]).max(), jnp.abs(wide[:, 12:, 2:]).max()) < 1e-6
        square = jnp.einsum("mij,mik->mjk", cropped, cropped)
        np.testing.assert_allclose(square, jnp.eye(12)[None].repeat(8, 0), atol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
@pytest.mark.parametrize("first", [True, False])
def test_one_by_one_factors_have_the_basis_one(method, first):
    one = jnp.ones((2, 1, 1))
    np.testing.assert_array_equal(compiled(method)(jnp.asarray([[[0.0]], [[3.0]]]), one, jnp.asarray(first)), one)


@pytest.mark.parametrize("method", METHODS[1:], ids=lambda m: m.name)
@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_the_scale_changes_nothing(method, scale):
    a, basis = stack(4)
    a, basis = a.astype(jnp.float32), basis.astype(jnp.float32)
    # LAPACK may turn an eigenvector over.
    overlap = jnp.sum(later(method, a, basis) * later(method, a * np.float32(scale), basis), axis=1)
    np.testing.assert_allclose(jnp.abs(overlap), 1, atol=1e-4)


@pytest.mark.usefixtures("x64")
def test_the_worst_of_every_group_is_decomposed_and_no_other():
    a, basis = stack(11)
    renewed = later(rotations(group=4, tolerance=0.0), a, basis)
    badness = np.asarray(scaled_off_diagonal(a, rotate_basis(a, basis, 2)))
    expected = [start + np.argmax(badness[start : start + 4]) for start in (0, 4, 8)]
    np.testing.assert_array_equal(changed(a, basis, renewed), expected)
    np.testing.assert_allclose(scaled_off_diagonal(a, renewed)[np.asarray(expected)], 0, atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_none_is_replaced_below_the_tolerance_or_without_a_group():
    a, basis = stack(5)
    for method in (rotations(group=2, tolerance=1e9), rotations(group=None)):
        assert changed(a, basis, later(method, a, basis)).size == 0


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("cut", [4, 8])
def test_cutting_the_stack_between_groups_changes_nothing(cut):
    method = rotations(group=4, tolerance=0.0)
    a, basis = stack(12, n=4)
    parts = [later(method, *part) for part in ((a[:cut], basis[:cut]), (a[cut:], basis[cut:]))]
    np.testing.assert_allclose(later(method, a, basis), jnp.concatenate(parts), atol=1e-13)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_first_basis_of_one_matrix_changes_no_other(method):
    a, basis = stack(2)
    both = method.basis(a, basis, jnp.asarray([False, True]))
    np.testing.assert_allclose(both[0], later(method, a, basis)[0], atol=1e-13)
    np.testing.assert_allclose(scaled_off_diagonal(a, both)[1], 0, atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_a_factor_that_is_not_finite_takes_no_turn():
    a, basis = stack(4)
    broken = a.at[2].set(jnp.nan)
    renewed = later(rotations(group=4, tolerance=0.0), broken, basis)
    good = np.asarray([0, 1, 3])
    assert len(changed(a[good], basis[good], renewed[good])) == 1


@pytest.mark.usefixtures("x64")
def test_a_decomposition_takes_the_places_of_the_columns_it_continues():
    a, _ = stack(3)
    rng = np.random.default_rng(0)
    places = [rng.permutation(6) for _ in range(3)]
    vectors = np.stack([np.linalg.eigh(x)[1][:, p] for x, p in zip(a, places, strict=True)])
    tilted = np.stack([np.linalg.qr(q + 0.01 * rng.standard_normal((6, 6)))[0] for q in vectors])
    renewed = continued_eigen_basis(a, jnp.asarray(tilted))
    np.testing.assert_allclose(np.abs(np.einsum("mij,mij->mj", vectors, renewed)), 1, atol=1e-10)


@pytest.mark.parametrize("rows", [3, 8, 9, 40])
def test_the_number_of_decompositions_is_fixed(rows):
    shape = jax.ShapeDtypeStruct((rows, 16, 16), "float32")
    lowered = jax.jit(lambda a, q: later(rotations(), a, q)).trace(shape, shape).lower(lowering_platforms=("cuda",))
    calls = [line for line in lowered.as_text().splitlines() if "custom_call @cusolver_syev" in line]
    counts = [int(re.search(r"\(tensor<(\d+)x16x16xf32>", line).group(1)) for line in calls]
    # All of the first refresh, and one of each group later.
    assert sorted(counts, reverse=True) == [rows, -(-rows // 8)]


def follow(method, paths, first):
    """The errors of the induced roots at every refresh, all matrices in one stack, in float32."""
    basis, errors = jnp.asarray(first, jnp.float32), []
    for a in np.moveaxis(paths, 1, 0):
        basis = later(method, jnp.asarray(a, jnp.float32), basis)
        errors.append([root_error(x, q, ridge=1e-6) for x, q in zip(a, basis, strict=True)])
    return np.asarray(errors)


@pytest.mark.parametrize("decay", [0.99, 0.95])
def test_rotations_are_no_worse_than_qr_on_recorded_statistics(decay):
    paths = recorded(decay)
    first = np.linalg.eigh(paths[:, 0])[1]
    ours, theirs = (follow(method, paths[:, 1:], first) for method in (rotations(group=3), qr()))
    for one, other in zip(ours.T, theirs.T, strict=True):
        assert geometric_mean(one) < geometric_mean(other)
    assert geometric_mean(ours + 1e-6) < 0.4 * geometric_mean(theirs)


@pytest.mark.parametrize("decay", [0.999, 0.99, 0.95])
def test_rotations_are_no_worse_than_qr_on_drifting_statistics(decay):
    paths = np.stack([drifting(48, decay, seed=seed) for seed in range(3)])
    first = np.linalg.eigh(paths[:, 0])[1]
    ours, theirs = (follow(method, paths[:, 1:], first) for method in (rotations(group=None), qr()))
    assert np.all(ours < theirs)


@pytest.mark.parametrize("method", [cholesky_qr(), rotations(group=None)], ids=lambda m: m.name)
@pytest.mark.parametrize("stagger", [pytest.param(False, marks=pytest.mark.slow), True])
def test_soap_trains_with_them(method, stagger):
    rng = np.random.default_rng(0)
    inputs, target = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((64, 8), (8, 6)))
    inputs = inputs * jnp.geomspace(1e-2, 1, 8)
    tx = precond.soap(0.05, method=method, refresh=precond.every(4, stagger=stagger))

    def loss(w):
        return jnp.mean(jnp.square(inputs @ (w - target)))

    @jax.jit
    def step(w, state):
        updates, state = tx.update(jax.grad(loss)(w), state, w)
        return optax.apply_updates(w, updates), state

    w = jnp.zeros((8, 6))
    state, start = tx.init(w), loss(w)
    for _ in range(60):
        w, state = step(w, state)
    assert loss(w) < 0.02 * start


def test_what_cannot_work_is_refused_at_construction():
    with pytest.raises(ValueError, match="sweeps=0: must be at least 1"):
        rotations(sweeps=0)
    with pytest.raises(ValueError, match="tolerance=-1: must be at least 0"):
        rotations(tolerance=-1)
    with pytest.raises(ValueError, match="group=0: must be at least 1"):
        rotations(group=0)
    for method in (rotations(), cholesky_qr()):
        with pytest.raises(ValueError, match=r"computes no inverse roots"):
            inverse_root(method=method)
        eigenbasis(method=method)

"""The eigenbasis as a part: Adam's rule in a rotated basis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precond import RootState, eigenbasis, eigh, newton, outer_products, qr, rotations, scale_by_kronecker
from precond.linalg import dense
from precond.roots.guard import Health, unchecked
from tests import reference

pytestmark = pytest.mark.usefixtures("x64")


def orthogonal(d, rng):
    return np.linalg.qr(rng.standard_normal((d, d)))[0]


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    decay=st.sampled_from([0.8, 1.0]),
    power=st.sampled_from([0.5, 0.3]),
    bias_correction=st.booleans(),
)
def test_the_second_moment_is_that_of_the_gradient_in_the_basis(shape, decay, power, bias_correction):
    rng = np.random.default_rng(0)
    bases = [orthogonal(d, rng) for d in shape]
    root = eigenbasis(decay, eps=1e-3, power=power, bias_correction=bias_correction)
    state = root.init(np.zeros((1, *shape)), tuple(np.zeros((1, d, d)) for d in shape))
    derived = tuple(x._replace(matrix=q[None]) for x, q in zip(state.derived, bases, strict=True))
    state, apply = state._replace(derived=derived), jax.jit(root.apply)
    v = np.zeros(shape)
    for t in range(1, 4):
        g, m = rng.standard_normal((2, *shape))
        out, state = apply(m[None], g[None], state)
        turn = [q.T for q in bases]
        v = decay * v + (1 if decay == 1 else 1 - decay) * reference.kron_multiply(g, turn) ** 2
        corrected = v / (1 - decay**t) if bias_correction and decay < 1 else v
        inner = reference.kron_multiply(m, turn) / (corrected**power + 1e-3)
        np.testing.assert_allclose(out[0], reference.kron_multiply(inner, bases), rtol=1e-11, atol=1e-11)


def test_an_axis_without_a_factor_keeps_its_own_basis():
    root = eigenbasis()
    state = root.init(jnp.zeros((1, 2, 3)), (None, jnp.zeros((1, 3, 3))))
    assert state.derived[0] is None
    assert state.derived[1].matrix.shape == (1, 3, 3)


def refreshed(method, a, basis, *, first=False, known=True):
    old = unchecked(jnp.asarray(a)[None])._replace(matrix=jnp.asarray(basis)[None])
    if known:
        old = old._replace(health=Health(old.health.numbers.at[:, 2].set(1)))
    root = eigenbasis(method=method)
    return np.asarray(root.refresh(jnp.asarray(a)[None], old, 1.0, jnp.asarray(first)).matrix[0])


@pytest.mark.parametrize(("first", "known"), [(True, True), (False, False)], ids=["of all", "of this factor"])
@pytest.mark.parametrize("method", [eigh(), qr()], ids=lambda m: m.name)
def test_the_first_refresh_diagonalises(method, first, known):
    a = reference.matrix_of_spectrum(np.array([0.1, 1.0, 5.0]), np.random.default_rng(0))
    basis = refreshed(method, a, np.eye(3), first=first, known=known)
    turned = np.asarray(basis.T @ a @ basis)
    np.testing.assert_allclose(turned, np.diag(np.diag(turned)), atol=1e-12)


@pytest.mark.parametrize("method", [None, rotations(group=None)], ids=["by default", "rotations"])
def test_a_block_without_a_gradient_at_first_has_its_first_refresh_later(method):
    # Behind weights that begin at zero, as LoRA's B, all gradients of the first step are zero.
    tx = scale_by_kronecker(outer_products(0.9), eigenbasis(0.9, method=method), refresh=2)
    stacks = {"6x6": jnp.zeros((2, 6, 6))}
    state, update = tx.init(stacks), jax.jit(tx.update)
    for t in range(3):
        g = jax.random.normal(jax.random.key(t), (2, 6, 6)) * jnp.logspace(0, -1, 6)
        _, state = update({"6x6": g.at[1].set(0) if t == 0 else g}, state)
        known = state.roots["6x6"].derived[0].health.known.tolist()
        assert known == [True, t == 2]
    basis, factor = state.roots["6x6"].derived[0].matrix[1], dense(state.statistics.factors["6x6"][0])[1]
    turned = basis.T @ factor @ basis
    np.testing.assert_allclose(turned, jnp.diag(jnp.diag(turned)), atol=1e-10)


def test_later_refreshes_by_qr_follow_the_official_soap_up_to_labels():
    rng = np.random.default_rng(0)
    a, q = reference.matrix_of_spectrum(np.array([0.1, 5.0, 1.0]), rng), orthogonal(3, rng)
    basis = refreshed(qr(), a, q)
    order = np.argsort(np.diag(q.T @ a @ q))[::-1]
    official = np.linalg.qr(a @ q[:, order])[0]
    np.testing.assert_allclose(np.abs(basis[:, order].T @ official), np.eye(3), atol=1e-12)


def test_it_whitens_by_the_factor_in_its_basis():
    a = reference.matrix_of_spectrum(np.array([0.1, 1.0, 5.0]), np.random.default_rng(0))
    basis = np.linalg.eigh(a)[1]
    factor = jnp.asarray(a)[None]
    known = RootState((unchecked(factor)._replace(matrix=jnp.asarray(basis)[None]),), ())
    white = eigenbasis().whiten(known, 0, factor)[0]
    np.testing.assert_allclose(white, reference.power(a, -0.5), rtol=1e-10)


def test_it_leaves_out_directions_in_which_the_factor_is_rounding():
    x = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    factor = jnp.asarray(x @ x.T)[None]
    known = RootState((unchecked(factor)._replace(matrix=jnp.linalg.eigh(factor)[1]),), ())
    white = eigenbasis().whiten(known, 0, factor)[0]
    values, vectors = np.linalg.eigh(x.astype(np.float64) @ x.astype(np.float64).T)
    expected = vectors[:, -3:] / np.sqrt(values[-3:]) @ vectors[:, -3:].T
    np.testing.assert_allclose(white, expected, atol=1e-4)


def test_a_factor_that_has_seen_nothing_knows_no_root():
    zero = jnp.zeros((1, 3, 3))
    np.testing.assert_array_equal(eigenbasis().whiten(RootState((unchecked(zero),), ()), 0, zero), zero)


def test_what_never_moved_is_not_moved():
    root, zero = eigenbasis(eps=0.0), jnp.zeros((1, 2, 2))
    out, _ = root.apply(zero, zero, root.init(zero, (zero, zero)))
    np.testing.assert_array_equal(out, zero)


def test_what_cannot_work_is_refused_at_construction():
    with pytest.raises(ValueError, match=r"method=newton\(\) computes no eigenbasis"):
        eigenbasis(method=newton())
    with pytest.raises(ValueError, match=r"decay=-0\.1"):
        eigenbasis(-0.1)
    with pytest.raises(ValueError, match="eps=-1"):
        eigenbasis(eps=-1)

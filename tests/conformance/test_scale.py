"""The scale of the loss changes no update, from the first step on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import precond
from tests import catalog
from tests.conformance import harness

SHAPES = {"kernel": (6, 4), "deep": {"kernel": (3, 4, 6)}, "bias": (5,)}
FREE = [case for case in catalog.ALIASES if case.name not in ("shampoo_sgd_magnitude", "shampoo_sum")]


def gradients(step, scale, zero):
    rng = np.random.default_rng(step)
    leaves, treedef = jax.tree.flatten(SHAPES, is_leaf=lambda x: isinstance(x, tuple))
    size = 0.0 if zero and step == 0 else scale
    return treedef.unflatten([jnp.asarray(size * rng.standard_normal(s)) for s in leaves])


def updates(tx, scale, zero):
    params = jax.tree.map(jnp.zeros_like, gradients(0, 1.0, zero=False))
    state, update, out = tx.init(params), jax.jit(tx.update), []
    for step in range(14):
        u, state = update(gradients(step, scale, zero), state, params)
        out.append(u)
    return out


@pytest.mark.usefixtures("x64")
@harness.each(FREE)
@pytest.mark.parametrize("zero", [False, True], ids=["", "after a gradient of zeros"])
def test_gradients_of_any_size_give_the_same_updates(case, zero):
    # By powers of four, with which rounding commutes, and their roots too. The eps of denominators is left, which is
    # seen at the smallest.
    tx = case.make()
    expected = updates(tx, 1.0, zero)
    for scale in (2.0**-20, 2.0**-10, 2.0**10, 2.0**20):
        for a, b in zip(updates(tx, scale, zero), expected, strict=True):
            for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
                np.testing.assert_allclose(x, y, rtol=0, atol=1e-4 * (np.abs(y).max() + 1e-30))
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(expected[-1]))


@pytest.mark.parametrize(
    "make",
    [precond.soap, functools.partial(precond.soap, method=precond.eigh()), precond.kl_soap],
    ids=["soap", "soap by eigh", "kl_soap"],
)
def test_rounding_does_not_choose_the_basis_where_a_factor_has_no_full_rank(make):
    rng = np.random.default_rng(0)
    grads = jnp.asarray(rng.standard_normal((3, 24, 16)), jnp.float32)  # a rank of 16 of 24 after the first step
    tx = make(1.0)

    @jax.jit
    def path(scale):
        return jax.lax.scan(lambda s, g: tx.update(scale * g, s)[::-1], tx.init(grads[0]), grads)[1]

    expected = path(1.0)
    for scale in (1e-3, 0.7, 3e5):  # these are not powers of two, so that rounding differs
        np.testing.assert_allclose(path(scale), expected, rtol=0, atol=1e-3 * np.abs(expected).max())


def test_neither_does_it_where_columns_of_a_step_depend_on_each_other():
    """All 28 old columns see the second gradient, of rank 8: 20 of the new ones would be rounding alone."""
    rng = np.random.default_rng(0)
    grads = jnp.asarray(rng.standard_normal((4, 36, 8)), jnp.float32)
    tx = precond.kl_soap(1.0)

    @jax.jit
    def path(scale):
        return jax.lax.scan(lambda s, g: tx.update(scale * g, s)[::-1], tx.init(grads[0]), grads)[1]

    expected = path(1.0)
    for scale in (1e-3, 0.7, 3e5):
        np.testing.assert_allclose(path(scale), expected, rtol=0, atol=5e-3 * np.abs(expected).max())

"""Roots and bases kept in bfloat16: what they lose, and where."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from precond.linalg import dense
from precond.roots.guard import Checked
from precond.trees import find_nodes

ROOTS = {
    "inverse_root": precond.inverse_root,
    "composite": lambda: precond.inverse_root(method=precond.composite()),
    "eigenbasis": precond.eigenbasis,
}


def gradients(steps=6):
    return jnp.asarray(np.random.default_rng(0).standard_normal((steps, 3, 12, 8)), jnp.float32)


@functools.cache
def run(name, stored):
    """The updates and the last state with a root, as it is or stored in bfloat16."""
    root = precond.roots.store_as(ROOTS[name]()) if stored else ROOTS[name]()
    tx = precond.scale_by_kronecker(precond.outer_products(0.9), root, momentum=optax.ema(0.9), refresh=2)
    state, out, update = tx.init({"s": gradients()[0]}), [], jax.jit(tx.update)
    for g in gradients():
        updates, state = update({"s": g}, state)
        out.append(updates["s"])
    return out, state


@pytest.mark.parametrize("name", ROOTS)
def test_matrices_are_off_by_no_more_than_their_rounding(name):
    _, exact = run(name, stored=False)
    _, state = run(name, stored=True)
    for x, y in zip(state.roots["s"].derived, exact.roots["s"].derived, strict=True):
        matrix = dense(x.matrix)
        assert matrix.dtype == jnp.bfloat16
        assert x.health.residual.dtype == jnp.float32
        if name != "eigenbasis":  # whose next basis is made from the last
            off = jnp.linalg.norm(matrix.astype(jnp.float32) - y.matrix, axis=(1, 2))
            assert (off <= 2**-8 * jnp.linalg.norm(y.matrix, axis=(1, 2))).all()
    assert state.momentum["s"].ema.dtype == jnp.float32


@pytest.mark.parametrize("name", ["inverse_root", "composite"])
def test_updates_are_off_by_no_more_than_that_on_each_side(name):
    exact, state = run(name, stored=False)
    rounded, _ = run(name, stored=True)
    condition = np.prod([np.linalg.cond(x.matrix).max() for x in state.roots["s"].derived])
    for a, b in zip(rounded, exact, strict=True):
        assert np.linalg.norm(a - b) <= 2 * 2**-8 * np.sqrt(12) * condition * np.linalg.norm(b)
    assert np.linalg.norm(rounded[-1] - exact[-1]) < 0.02 * np.linalg.norm(exact[-1])


@pytest.mark.parametrize("name", ROOTS)
def test_bases_take_half_the_memory_and_roots_are_triangles(name):
    _, exact = run(name, stored=False)
    _, state = run(name, stored=True)
    size = [sum(x.nbytes for x in jax.tree.leaves(s)) for s in (exact, state)]
    narrow = sum(d * d if name == "eigenbasis" else d * (d + 1) // 2 for d in (12, 8))
    assert size[0] - size[1] == 3 * (4 * (12 * 12 + 8 * 8) - 2 * narrow)


def test_a_basis_in_bfloat16_goes_on_being_refreshed():
    out, state = run("eigenbasis", stored=True)
    assert precond.metrics(state)["roots/refused"] == 0
    assert np.isfinite(out).all()
    for x in state.roots["s"].derived:
        basis = np.asarray(x.matrix, np.float32)
        d = basis.shape[-1]
        off = np.linalg.norm(np.swapaxes(basis, 1, 2) @ basis - np.eye(d), axis=(1, 2))
        assert (off <= (2 + 2**-8) * 2**-8 * np.sqrt(d)).all()


def test_many_sizes_are_refreshed_in_a_few_as_without():
    """Sizes that are padded, odd ones and single entries: each root is that of its factor, rounded."""
    rng, shapes = np.random.default_rng(0), [(a, 17 - a) for a in range(1, 12)]
    params = {f"{a}x{b}": jnp.asarray(rng.standard_normal((a, b)), jnp.float32) for a, b in shapes}
    exact, stored = [], []
    for found, root in ((exact, precond.inverse_root()), (stored, precond.roots.store_as(precond.inverse_root()))):
        tx = precond.blocked(precond.scale_by_kronecker(precond.outer_products(1.0), root, refresh=1))

        def roots(tx=tx):
            state = tx.update(params, tx.init(params))[1]
            return [dense(x.matrix).astype(jnp.float32) for x in find_nodes(state, Checked)]

        found += map(np.asarray, jax.jit(roots)())
    assert {x.shape[1] for x in exact} == set(range(2, 16))
    for x, y in zip(exact, stored, strict=True):
        assert (np.linalg.norm(y - x, axis=(1, 2)) <= 2**-8 * np.linalg.norm(x, axis=(1, 2))).all()


def test_a_type_that_is_not_of_floating_point_is_refused():
    with pytest.raises(TypeError, match="not of floating point"):
        precond.roots.store_as(precond.inverse_root(), jnp.int8)

"""EK-FAC against its definition: dense matrices in float64, in numpy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from precond.trees import find_nodes
from tests.engine.test_kfac import LAYERS as EVERY_LAYER
from tests.engine.test_kfac import averaged, factors_of, matrix, some, tree

pytestmark = pytest.mark.usefixtures("x64")

LAYERS = {name: EVERY_LAYER[name] for name in ("dense", "grouped", "norm", "embed")}


def basis_of(factor):
    return np.eye(len(factor)) if factor.ndim == 1 else np.linalg.eigh(factor)[1]


def largest(moments, decay):
    return np.max([decay ** (len(moments) - 1 - t) * x for t, x in enumerate(moments)], axis=0)


def mean(moments, decay):
    return np.average(moments, axis=0, weights=[decay ** (len(moments) - 1 - t) for t in range(len(moments))])


def corrected(moments, directions, factors, damping, decay, kept=largest):
    """A layer's directions over the dense diagonal, in the eigenbasis of factors that stay as they are."""
    (a, g, *_), out = factors, []
    for i, block in enumerate(directions):
        basis = np.kron(basis_of(np.asarray(a)[i]), np.eye(1) if g is None else basis_of(np.asarray(g)[i]))
        diagonal = kept([x[i].ravel() for x in moments], decay)
        full = basis @ np.diag(diagonal + damping) @ basis.T
        out.append(np.linalg.solve(full, block.ravel()).reshape(block.shape))
    return np.stack(out)


def with_moments(factors, seed):
    """Some, which stand for those that were measured in the bases of the state."""
    moments = {name: matrix(name, tree(1000 + seed)) ** 2 for name in factors}
    return {name: f._replace(moments=jnp.asarray(moments[name])) for name, f in factors.items()}, moments


@pytest.mark.parametrize(("follow", "kept"), [(precond.roots.decayed_max, largest), (precond.roots.ema, mean)])
def test_the_direction_is_that_of_the_dense_diagonal_in_the_eigenbasis(follow, kept):
    damping, decay = 0.3, 0.7
    refresh = precond.every(5, delay=1, warmup=1)
    root = precond.corrected_inverse(damping, follow=follow(decay))
    tx = precond.scale_by_kfac(LAYERS, root=root, refresh=refresh, around=precond.use_measured_moments)
    factors, moments = {name: factors_of(0)[name] for name in LAYERS}, []
    grads = {name: tree(0)[name] for name in LAYERS}
    state, update = tx.init(grads), jax.jit(tx.update)
    for step in range(5):
        grads = {name: tree(step)[name] for name in LAYERS}
        given, measured = with_moments(factors, step)
        if step == 3:  # nothing was captured
            updates, state = update(grads, state, factors=None)
        else:
            moments += [measured] if step else []  # the first feeds the factors alone
            updates, state = update(grads, state, factors=given)
        for name in LAYERS:
            seen = [moment[name] for moment in moments]
            expected = corrected(seen, matrix(name, grads), factors[name], damping, decay, kept) if seen else 0
            np.testing.assert_allclose(matrix(name, updates), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("bound", [1e-4, pytest.param(float("inf"), marks=pytest.mark.slow)])
def test_the_alias_is_its_equation(bound):
    lr, b1, b2, damping = 0.5, 0.8, 0.7, 0.1
    layers, moments = some(EVERY_LAYER), []
    tx = precond.ekfac(lr, layers, b1=b1, b2=b2, damping=damping, bound=bound, weight_decay=0.1, refresh=5)
    params, update = some(tree(50)), jax.jit(tx.update)
    state, velocity = tx.init(params), optax.tree.zeros_like(params)
    for step in range(3):
        grads = some(tree(step))
        given, measured = with_moments(some(factors_of(step)), step)
        updates, state = update(grads, state, params, factors=given)
        velocity = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, velocity, grads)
        if step == 0:  # the momentum sees every gradient; what the first leaves is weight decay
            for name in layers:
                np.testing.assert_allclose(matrix(name, updates), -lr * 0.1 * matrix(name, params), rtol=1e-12)
            continue
        moments.append(measured)
        momentum, v = optax.tree.scale(1 / (1 - b1 ** (step + 1)), velocity), {}
        for name in layers:
            past, first = [moment[name] for moment in moments], averaged([0], 0.95)[name]
            v[name] = corrected(past, matrix(name, momentum), first, damping, b2)
        product = sum(np.vdot(v[name], matrix(name, momentum)) for name in v)
        eta = min(lr, np.sqrt(bound / product))
        assert (eta < lr) == np.isfinite(bound)
        for name in layers:
            expected = -eta * v[name] - lr * 0.1 * matrix(name, params)
            np.testing.assert_allclose(matrix(name, updates), expected, rtol=1e-8, atol=1e-12)


def test_moments_that_turn_are_those_of_the_dense_diagonal_in_the_new_eigenbasis():
    damping, b2, layers = 0.1, 0.7, some(EVERY_LAYER)
    rotated = {"method": precond.eigh(), "transport": precond.roots.rotated(), "refresh": 1}
    tx = precond.scale_by_ekfac(layers, b2=b2, decay=0.95, damping=damping, **rotated)
    state, update = tx.init(some(tree(0))), jax.jit(tx.update)
    bases, moments = {}, dict.fromkeys(layers, 0.0)
    for step in range(4):
        grads = some(tree(step))
        given, measured = with_moments(some(factors_of(step)), step)
        updates, state = update(grads, state, factors=given)
        after = averaged(range(step + 1), 0.95)
        for name in layers:
            new = np.kron(*(basis_of(np.asarray(f)[0]) for f in after[name][:2]))
            if step:  # the first feeds the factors alone
                moments[name] = np.maximum(b2 * moments[name], measured[name].ravel())
                full = bases[name] @ np.diag(moments[name] + damping) @ bases[name].T
                expected = np.linalg.solve(full, matrix(name, grads).ravel())
                np.testing.assert_allclose(matrix(name, updates).ravel(), expected, rtol=1e-10, atol=1e-12)
                between = new.T @ bases[name]
                moments[name] = np.diag(between @ np.diag(moments[name]) @ between.T)
            bases[name] = new


def test_moments_that_are_not_finite_are_left_out():
    root = precond.corrected_inverse(0.5)
    good, bad = jnp.full((1, 2, 2), 3.0), jnp.full((1, 2, 2), jnp.inf)
    state = root.init(good, (jnp.eye(2)[None], jnp.eye(2)[None]))
    _, state = root.apply(good, good, state)
    out, after = root.apply(good, bad, state)
    chex.assert_trees_all_equal(after, state)
    np.testing.assert_allclose(out, 3 / 3.5)


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="damping=-1"):
        precond.ekfac(0.1, LAYERS, damping=-1)
    with pytest.raises(ValueError, match="computes no eigenbasis"):
        precond.ekfac(0.1, LAYERS, method=precond.roots.cholesky())
    with pytest.raises(ValueError, match="refresh=0"):
        precond.ekfac(0.1, LAYERS, refresh=0)
    for refresh in (
        precond.every(5),
        precond.every(5, delay=1),
        precond.every(5, warmup=1),
        precond.every(5, start=3, delay=1, warmup=1),
    ):
        with pytest.raises(ValueError, match="delay=1, and a warmup"):
            precond.ekfac(0.1, LAYERS, refresh=refresh)
    tx = precond.ekfac(0.1, LAYERS)
    grads = {name: tree(0)[name] for name in LAYERS}
    with pytest.raises(ValueError, match="factors= come without second moments"):
        tx.update(grads, tx.init(grads), factors={name: factors_of(0)[name] for name in LAYERS})


def test_nothing_that_was_measured_changes_no_moments():
    params, gradient = {"kernel": jnp.ones((4, 3))}, {"kernel": jnp.arange(12.0).reshape(4, 3)}
    engine = precond.scale_by_kronecker(precond.outer_products(), precond.corrected_inverse())
    tx = precond.blocked(precond.use_measured_moments(engine))
    updates, state = tx.update(gradient, tx.init(params), params)
    (moments,) = [x.moments for x in find_nodes(state, precond.roots.RootState)]
    assert jnp.all(jnp.isfinite(updates["kernel"]))
    assert not jnp.any(moments.count)
    assert not jnp.any(moments.nu)

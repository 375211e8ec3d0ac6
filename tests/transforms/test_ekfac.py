"""EK-FAC against its definition: dense matrices in float64, in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from tests.transforms.test_kfac import LAYERS as EVERY_LAYER
from tests.transforms.test_kfac import averaged, factors_of, matrix, some, tree

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

LAYERS = {name: EVERY_LAYER[name] for name in ("dense", "grouped", "norm", "embed")}


def basis_of(factor):
    return np.eye(len(factor)) if factor.ndim == 1 else np.linalg.eigh(factor)[1]


def corrected(gradients, directions, factors, damping, examples, decay):
    """A layer's directions over the dense diagonal, in the eigenbasis of factors that stay as they are."""
    (a, g), blocks = factors, directions[-1]
    out = []
    for i, block in enumerate(blocks):
        basis = np.kron(basis_of(np.asarray(a)[i]), np.eye(1) if g is None else basis_of(np.asarray(g)[i]))
        seen = [decay ** (len(gradients) - 1 - t) * (basis.T @ m[i].ravel()) ** 2 for t, m in enumerate(gradients)]
        diagonal = examples * np.sum(seen, axis=0) * (1 - decay) / (1 - decay ** len(gradients))
        full = basis @ np.diag(diagonal + damping) @ basis.T
        out.append(np.linalg.solve(full, block.ravel()).reshape(block.shape))
    return np.stack(out)


def test_the_direction_is_that_of_the_dense_diagonal_in_the_eigenbasis():
    damping, examples, decay = 0.3, 8, 0.7
    root = precond.corrected_inverse(damping, examples=examples, decay=decay)
    refresh = precond.every(5, delay=1, warmup=1)
    tx = precond.scale_by_kfac(LAYERS, root=root, refresh=refresh)
    trees = [{name: tree(seed)[name] for name in LAYERS} for seed in range(4)]
    factors = {name: factors_of(0)[name] for name in LAYERS}
    state, update = tx.init(trees[0]), jax.jit(tx.update)
    for step, grads in enumerate(trees):
        updates, state = update(grads, state, factors=factors)
        for name in LAYERS:
            seen = [matrix(name, t) for t in trees[1 : step + 1]]  # the first feeds the statistics alone
            expected = corrected(seen, seen, factors[name], damping, examples, decay) if seen else 0
            np.testing.assert_allclose(matrix(name, updates), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("bound", [1e-4, pytest.param(float("inf"), marks=pytest.mark.slow)])
def test_the_alias_is_its_equation(bound):
    lr, b1, damping, decay, examples = 0.5, 0.8, 0.1, 0.9, 16
    layers = some(EVERY_LAYER)
    tx = precond.ekfac(
        lr, layers, examples=examples, b1=b1, damping=damping, decay=decay, bound=bound, weight_decay=0.1, refresh=5
    )
    params, update = some(tree(50)), jax.jit(tx.update)
    state, velocity, seen = tx.init(params), optax.tree.zeros_like(params), []
    updates, state = update(some(tree(0)), state, params, factors=some(factors_of(0)))
    for name in layers:  # the momentum sees every gradient; what the first leaves is weight decay
        np.testing.assert_allclose(matrix(name, updates), -lr * 0.1 * matrix(name, params), rtol=1e-12)
    velocity = jax.tree.map(lambda g: (1 - b1) * g, some(tree(0)))
    for step in (1, 2):
        grads = some(tree(step))
        seen.append(grads)
        velocity = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, velocity, grads)
        momentum = optax.tree.scale(1 / (1 - b1 ** (step + 1)), velocity)
        v = {}
        for name in layers:
            past = [matrix(name, t) for t in seen]
            v[name] = corrected(past, [matrix(name, momentum)], averaged([0], decay)[name], damping, examples, decay)
        product = sum(np.vdot(v[name], matrix(name, momentum)) for name in v)
        eta = min(lr, np.sqrt(bound / product))
        assert (eta < lr) == np.isfinite(bound)
        updates, state = update(grads, state, params, factors=some(factors_of(step)))
        for name in layers:
            expected = -eta * v[name] - lr * 0.1 * matrix(name, params)
            np.testing.assert_allclose(matrix(name, updates), expected, rtol=1e-8, atol=1e-12)


def test_of_one_example_the_second_moment_is_the_fisher_matrix_itself():
    """N = 1, one step: S is the diagonal of g g^T in a basis in which g is one entry, whatever the layer."""
    rng = np.random.default_rng(0)
    a, g = rng.standard_normal(3), rng.standard_normal(2)
    params = {"dense": {"kernel": jnp.asarray(np.outer(a, g))}}
    capture = precond.layers.explicit({"dense": precond.layers.dense(bias=False)}, params)
    factors = {"dense": precond.layers.Factors(jnp.asarray(np.outer(a, a))[None], jnp.asarray(np.outer(g, g))[None])}
    root = precond.corrected_inverse(0.5, examples=1)
    tx = precond.scale_by_kfac(capture.layers, root=root, refresh=precond.every(1, delay=1, warmup=1))
    state = tx.init(params)
    for _ in range(2):
        updates, state = jax.jit(tx.update)(params, state, factors=factors)
    flat = np.outer(a, g).ravel()
    expected = np.linalg.solve(np.outer(flat, flat) + 0.5 * np.eye(6), flat)
    np.testing.assert_allclose(updates["dense"]["kernel"].ravel(), expected, rtol=1e-9)


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="examples=0"):
        precond.ekfac(0.1, LAYERS, examples=0)
    with pytest.raises(ValueError, match="damping=-1"):
        precond.ekfac(0.1, LAYERS, examples=8, damping=-1)
    with pytest.raises(ValueError, match="computes no eigenbasis"):
        precond.ekfac(0.1, LAYERS, examples=8, method=precond.cholesky())
    with pytest.raises(ValueError, match="refresh=0"):
        precond.ekfac(0.1, LAYERS, examples=8, refresh=0)

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


def corrected(draws, directions, factors, damping, decay):
    """A layer's directions over the dense diagonal, in the eigenbasis of factors that stay as they are."""
    (a, g, *_), out = factors, []
    for i, block in enumerate(directions):
        basis = np.kron(basis_of(np.asarray(a)[i]), np.eye(1) if g is None else basis_of(np.asarray(g)[i]))
        seen = [decay ** (len(draws) - 1 - t) * (basis.T @ x[i].ravel()) ** 2 for t, x in enumerate(draws)]
        diagonal = np.sum(seen, axis=0) * (1 - decay) / (1 - decay ** len(draws))
        full = basis @ np.diag(diagonal + damping) @ basis.T
        out.append(np.linalg.solve(full, block.ravel()).reshape(block.shape))
    return np.stack(out)


def with_draws(factors, seed):
    draws = {name: matrix(name, tree(1000 + seed)) for name in factors}
    return {name: f._replace(draw=jnp.asarray(draws[name])) for name, f in factors.items()}, draws


def test_the_direction_is_that_of_the_dense_diagonal_in_the_eigenbasis():
    damping, decay = 0.3, 0.7
    refresh = precond.every(5, delay=1, warmup=1)
    root = precond.corrected_inverse(damping, decay=decay)
    tx = precond.scale_by_kfac(LAYERS, root=root, refresh=refresh, around=precond.drawn)
    factors, draws = {name: factors_of(0)[name] for name in LAYERS}, []
    grads = {name: tree(0)[name] for name in LAYERS}
    state, update = tx.init(grads), jax.jit(tx.update)
    for step in range(5):
        grads = {name: tree(step)[name] for name in LAYERS}
        given, drawn = with_draws(factors, step)
        if step == 3:  # nothing was captured
            updates, state = update(grads, state, factors=None)
        else:
            draws += [drawn] if step else []  # the first feeds the factors alone
            updates, state = update(grads, state, factors=given)
        for name in LAYERS:
            seen = [draw[name] for draw in draws]
            expected = corrected(seen, matrix(name, grads), factors[name], damping, decay) if seen else 0
            np.testing.assert_allclose(matrix(name, updates), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("bound", [1e-4, pytest.param(float("inf"), marks=pytest.mark.slow)])
def test_the_alias_is_its_equation(bound):
    lr, b1, damping, decay = 0.5, 0.8, 0.1, 0.9
    layers, draws = some(EVERY_LAYER), []
    tx = precond.ekfac(lr, layers, b1=b1, damping=damping, decay=decay, bound=bound, weight_decay=0.1, refresh=5)
    params, update = some(tree(50)), jax.jit(tx.update)
    state, velocity = tx.init(params), optax.tree.zeros_like(params)
    for step in range(3):
        grads = some(tree(step))
        given, drawn = with_draws(some(factors_of(step)), step)
        updates, state = update(grads, state, params, factors=given)
        velocity = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, velocity, grads)
        if step == 0:  # the momentum sees every gradient; what the first leaves is weight decay
            for name in layers:
                np.testing.assert_allclose(matrix(name, updates), -lr * 0.1 * matrix(name, params), rtol=1e-12)
            continue
        draws.append(drawn)
        momentum, v = optax.tree.scale(1 / (1 - b1 ** (step + 1)), velocity), {}
        for name in layers:
            past, first = [draw[name] for draw in draws], averaged([0], decay)[name]
            v[name] = corrected(past, matrix(name, momentum), first, damping, decay)
        product = sum(np.vdot(v[name], matrix(name, momentum)) for name in v)
        eta = min(lr, np.sqrt(bound / product))
        assert (eta < lr) == np.isfinite(bound)
        for name in layers:
            expected = -eta * v[name] - lr * 0.1 * matrix(name, params)
            np.testing.assert_allclose(matrix(name, updates), expected, rtol=1e-8, atol=1e-12)


@pytest.fixture
def model(x64):
    rng = np.random.default_rng(0)
    params = {
        "a": {"kernel": jnp.asarray(rng.standard_normal((3, 2))), "bias": jnp.asarray(rng.standard_normal(2))},
        "b": {"kernel": jnp.asarray(rng.standard_normal((2, 3)))},
    }
    kinds = {"a": precond.layers.dense(), "b": precond.layers.dense(bias=False)}
    capture = precond.layers.explicit(kinds, params)

    def forward(p, x):
        h = jnp.tanh(capture.apply("a", p["a"], x @ p["a"]["kernel"] + p["a"]["bias"], x))
        return capture.apply("b", p["b"], h @ p["b"]["kernel"], h)

    return params, jnp.asarray(rng.standard_normal((5, 3))), capture, forward


def test_a_draw_is_the_gradient_of_sampled_targets_over_the_root_of_their_number(model):
    params, x, capture, forward = model
    likelihood, key = precond.layers.categorical(), jax.random.key(3)
    loss = lambda logits, x: jnp.mean(jnp.sum(logits**2, -1))  # noqa: E731
    f = precond.layers.value_grad_factors(forward, loss, capture, fisher=precond.layers.sampled(likelihood), draw=True)
    factors = jax.jit(f)(params, x, key=key)[2]
    slope = likelihood.sample(key, forward(params, x))
    expected = jax.grad(lambda p: jnp.sum(forward(p, x) * slope))(params)
    for name in ("a", "b"):
        p = expected[name]
        full = np.concatenate([p["kernel"], p["bias"][None]]) if "bias" in p else p["kernel"]
        np.testing.assert_allclose(factors[name].draw[0], full / np.sqrt(5), rtol=1e-12, atol=1e-14)


@pytest.mark.slow
def test_the_second_moment_of_draws_is_the_dense_fisher_matrix(model):
    params, x, capture, forward = model
    f = precond.layers.value_grad_factors(
        forward,
        lambda logits, x: jnp.mean(logits),
        capture,
        fisher=precond.layers.sampled(precond.layers.categorical(), samples=2),
        draw=True,
    )
    keys = jax.random.split(jax.random.key(0), 20000)
    draws = jax.jit(jax.vmap(lambda key: f(params, x, key=key)[2]["b"].draw[0]))(keys)
    rows = np.asarray(draws).reshape(len(keys), -1)
    jacobian = jax.jacobian(lambda w: forward(params | {"b": {"kernel": w}}, x))(params["b"]["kernel"])
    j, p = np.asarray(jacobian).reshape(5, 3, 6), np.asarray(jax.nn.softmax(forward(params, x)))
    fisher = np.mean([a.T @ (np.diag(q) - np.outer(q, q)) @ a for a, q in zip(j, p, strict=True)], axis=0)
    np.testing.assert_allclose(rows.mean(0), 0, atol=0.03)
    assert np.linalg.norm(rows.T @ rows / len(rows) - fisher) < 0.03 * np.linalg.norm(fisher)


def test_a_draw_that_is_not_finite_is_left_out():
    root = precond.corrected_inverse(0.5)
    good, bad = jnp.full((1, 2, 2), 3.0), jnp.full((1, 2, 2), jnp.inf)
    state = root.init(good, (jnp.eye(2)[None], jnp.eye(2)[None]))
    _, state = root.apply(good, good, state)
    out, after = root.apply(good, bad, state)
    jax.tree.map(np.testing.assert_array_equal, after, state)
    np.testing.assert_allclose(out, 3 / 9.5)


def test_errors_say_what_to_do(model):
    *_, capture, forward = model
    with pytest.raises(ValueError, match="damping=-1"):
        precond.ekfac(0.1, LAYERS, damping=-1)
    with pytest.raises(ValueError, match="computes no eigenbasis"):
        precond.ekfac(0.1, LAYERS, method=precond.cholesky())
    with pytest.raises(ValueError, match="refresh=0"):
        precond.ekfac(0.1, LAYERS, refresh=0)
    exact = precond.layers.exact(precond.layers.categorical())
    with pytest.raises(ValueError, match="draw=True needs"):
        precond.layers.value_grad_factors(forward, jnp.mean, capture, fisher=exact, draw=True)
    tx = precond.ekfac(0.1, LAYERS)
    grads = {name: tree(0)[name] for name in LAYERS}
    with pytest.raises(ValueError, match="factors= come without draws"):
        tx.update(grads, tx.init(grads), factors={name: factors_of(0)[name] for name in LAYERS})

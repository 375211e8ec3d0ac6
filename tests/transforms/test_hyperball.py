"""Weights on a sphere, and updates that agree with the gradient, against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from precond import orthogonal
from precond.transforms import cautious, hyperball
from tests.problem import distance, gradients, trajectory

SHAPES = {"wide": (3, 5), "layers": (2, 4, 3), "bias": (4,), "scale": ()}


def start_and_gradients(steps=10):
    return gradients(SHAPES, 1, seed=5)[0], gradients(SHAPES, steps)


def on_the_sphere(w, directions, rates):
    """The definition."""
    radius, path = np.linalg.norm(w), []
    for u, rate in zip(directions, rates, strict=True):
        w = w - rate * radius * u / np.linalg.norm(u)
        w = radius * w / np.linalg.norm(w)
        path.append(w)
    return np.stack(path)


@pytest.mark.usefixtures("x64")
def test_weights_follow_the_definition_and_vectors_step_as_usual():
    start, grads = start_and_gradients()
    rates = [0.3 / (1 + t) for t in range(10)]
    path = trajectory(hyperball(lambda count: 0.3 / (1 + count)), start, grads)
    for k in ("wide", "layers"):
        expected = on_the_sphere(start[k], [g[k] for g in grads], rates)
        assert distance(path[k], expected, start[k]) < 1e-12
        norms = np.linalg.norm(path[k].reshape(10, -1), axis=1)
        np.testing.assert_allclose(norms, np.linalg.norm(start[k]), rtol=1e-12)
    for k in ("bias", "scale"):
        expected = start[k] - np.cumsum([r * g[k] for r, g in zip(rates, grads, strict=True)], axis=0)
        assert distance(path[k], expected, start[k]) < 1e-12


@pytest.mark.usefixtures("x64")
def test_only_where_an_update_points_matters():
    start, grads = start_and_gradients()
    larger = [jax.tree.map(lambda x, t=t: x * 10.0**t, g) for t, g in enumerate(grads)]
    expected, found = trajectory(hyperball(0.1), start, grads), trajectory(hyperball(0.1), start, larger)
    np.testing.assert_allclose(found["wide"], expected["wide"], rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_muon_on_the_sphere_of_each_layer():
    start, grads = start_and_gradients()
    parts = precond.per_block(optax.ema(0.9)), orthogonal.polar(), precond.per_block(hyperball(0.1))
    inner = optax.chain(parts[0], precond.transforms.orthogonalize(parts[1]), parts[2])
    views = [("layers", precond.View((1, 2))), ("wide", precond.View((0, 1)))]
    tx = precond.blocked(inner, block_size=None, views=views, otherwise=optax.adamw(1e-3))
    path = trajectory(tx, start, grads)["layers"]
    for layer in range(2):
        m, directions = np.zeros((4, 3)), []
        for g in grads:
            m = 0.9 * m + 0.1 * g["layers"][layer]
            u, _, vt = np.linalg.svd(m, full_matrices=False)
            directions.append(u @ vt)
        expected = on_the_sphere(start["layers"][layer], directions, [0.1] * 10)
        assert distance(path[:, layer], expected, start["layers"][layer]) < 1e-10


def test_it_goes_around_every_direction_in_bfloat16_without_drift():
    start, grads = start_and_gradients(100)
    start, *grads = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), (start, *grads))
    for direction in (precond.scale_by_soap(), optax.scale_by_adam()):
        path = trajectory(optax.chain(direction, hyperball(0.05)), start, grads)["wide"].astype(float)
        norms = np.linalg.norm(path, axis=(1, 2)) / np.linalg.norm(np.asarray(start["wide"], float))
        assert np.abs(norms - 1).max() < 4e-3  # a number in bfloat16 has 8 bits
        assert np.abs(np.diff(path, axis=0)).max() > 0


def test_weights_that_begin_at_zero_leave_it_and_no_update_moves_nothing():
    tx, w = hyperball(0.1), jnp.zeros((2, 2))
    updates, state = tx.update(jnp.ones((2, 2)), tx.init(w), w)
    np.testing.assert_allclose(updates, -0.1, rtol=1e-6)
    np.testing.assert_allclose(tx.update(jnp.ones((2, 2)), state, w + updates)[0], -0.1, rtol=1e-6)
    w = jnp.asarray(np.random.default_rng(0).standard_normal((7, 9)), jnp.float32)
    assert not tx.update(jnp.zeros_like(w), tx.init(w), w)[0].any()
    assert not hyperball(0.0).update(w, hyperball(0.0).init(w), w)[0].any()


@pytest.mark.usefixtures("x64")
def test_cautious_updates_follow_the_definition():
    start, grads = start_and_gradients()
    path = trajectory(optax.chain(cautious(optax.ema(0.9)), optax.scale(-0.1)), start, grads)
    for k, w in start.items():
        m, expected = np.zeros_like(w), []
        for t, g in enumerate(grads, start=1):
            m = 0.9 * m + 0.1 * g[k]
            u = m / (1 - 0.9**t)
            agree = u * g[k] > 0
            w = w - 0.1 * u * agree / max(np.mean(agree), 1e-3)
            expected.append(w)
        assert distance(path[k], np.stack(expected), start[k]) < 1e-12


def test_cautious_goes_around_the_aliases_and_inside_blocks():
    params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
    around = cautious(precond.scale_by_muon())
    inside = precond.blocked(precond.per_block(cautious(optax.ema(0.9))), otherwise=cautious(optax.ema(0.9)))
    for tx in (around, inside):
        _, state = tx.update(params, tx.init(params), params)
        updates, _ = tx.update(jax.tree.map(lambda x: -0.01 * x, params), state, params)
        assert not any(jax.tree.leaves(jax.tree.map(jnp.any, updates)))  # the momentum still points the other way


def test_what_cannot_work_is_refused():
    w = jnp.ones((2, 2))
    with pytest.raises(ValueError, match="inner= goes against the gradient"):
        cautious(precond.soap(1e-3)).init(w)
    with pytest.raises(TypeError, match="inner="):
        cautious(0.1)
    with pytest.raises(ValueError, match="learning_rate=-1"):
        hyperball(-1.0)
    with pytest.raises(ValueError, match=r"update\(gradients, state, params\)"):
        hyperball(0.1).update(w, hyperball(0.1).init(w))


def test_a_part_that_is_made_for_one_tree_is_taken_where_it_meets_this_tree():
    given = jnp.asarray([1.0, 2.0, -3.0, 4.0])
    inner = optax.stateless(lambda updates, params: given)
    tx, g = cautious(inner), jnp.asarray([1.0, 1.0, 1.0, -1.0])
    np.testing.assert_array_equal(jnp.abs(tx.update(g, tx.init(g))[0]), [2.0, 4.0, 0.0, 0.0])
    for other in ({"kernel": g}, g[:3]):
        with pytest.raises(TypeError, match="inner= has an update that gives an array"):
            tx.init(other)

"""Weights on a sphere, and updates that agree with the gradient, against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from precond import orthogonal
from precond.arguments import as_direction
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
        assert distance(path[:, layer], expected, start["layers"][layer]) < 1e-12


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


def cautiously(g, u):
    agree = u * g > 0
    return u * agree / max(np.mean(agree), 1e-3)


def test_on_stacks_a_cautious_update_has_the_mean_of_each_block_on_any_number_of_devices():
    grads = {f"layer_{i}": np.random.default_rng(i).standard_normal((4, 3)).astype(np.float32) for i in range(3)}
    moved = np.random.default_rng(9).standard_normal((4, 3)).astype(np.float32)
    given = optax.stateless(lambda updates, params: jax.tree.map(lambda x: x * 0 + moved, updates))
    ahead = cautious(as_direction(given))
    for axis in (None, "data"):
        with jax.set_mesh(jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))):
            tx = precond.blocked(ahead, axis=axis)
            out = jax.jit(tx.update)(grads, tx.init(grads))[0]
        for k, g in grads.items():
            np.testing.assert_allclose(out[k], cautiously(g, moved), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.complex64], ids=str)
def test_cautious_updates_know_no_scale_and_compute_in_float32(dtype):
    size = 1e-4 if dtype == jnp.float16 else 1e-30  # its square is 0
    g = jnp.asarray([size, -size, size], dtype)
    tx = cautious(optax.stateless(lambda updates, params: updates * jnp.asarray([1, -1, 1], updates.dtype)))
    expected = np.asarray(g).astype(np.complex64) * [1.5, 0, 1.5]
    np.testing.assert_allclose(np.asarray(tx.update(g, tx.init(g))[0]).astype(np.complex64), expected, rtol=1e-2)


def test_complex_updates_agree_where_they_point_the_same_way():
    g, u = jnp.asarray([1 + 1j, 1 + 1j, 1 - 3j]), jnp.asarray([2 - 1j, -2 + 1j, 1j])
    tx = cautious(as_direction(optax.stateless(lambda updates, params: u)))
    np.testing.assert_allclose(tx.update(g, tx.init(g))[0], [6 - 3j, 0, 0], rtol=1e-6)


SINGLE = {
    "hyperball": lambda: hyperball(0.1),
    "normalize_neurons": lambda: precond.transforms.normalize_neurons(),
    "scale_by_mean_square": lambda: precond.transforms.scale_by_mean_square(),
    "block_top_k": lambda: precond.transforms.block_top_k(0.5),
    "low_rank": lambda: precond.transforms.low_rank(1),
    "project_radial": lambda: precond.contrib.project_radial(optax.identity()),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "hyperball")) for n in SINGLE])
def test_what_sees_one_block_at_a_time_refuses_stacks(name):
    params = {"kernel": jnp.ones((4, 3))}
    single = SINGLE[name]()
    stacks, each = (precond.blocked(tx, otherwise=single) for tx in (single, precond.per_block(single)))
    with pytest.raises(ValueError, match=rf"{name}\(\) takes single blocks.*per_block"):
        jax.eval_shape(lambda p: stacks.update(p, stacks.init(p), p), params)
    jax.eval_shape(lambda p: each.update(p, each.init(p), p), params)


def test_a_step_that_a_direction_skips_does_not_advance_the_schedule():
    w = {"kernel": jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)}
    tx = optax.chain(precond.scale_by_muon(method=orthogonal.polar()), hyperball(lambda t: 0.1 * (t + 1)))
    state, update = tx.init(w), jax.jit(tx.update)
    first, _ = update(w, state, w)
    skipped, state = update({"kernel": w["kernel"] * jnp.nan}, state, w)
    assert not skipped["kernel"].any()
    np.testing.assert_array_equal(update(w, state, w)[0]["kernel"], first["kernel"])


def test_vectors_of_stacked_layers_step_as_usual_where_a_mask_says_so():
    params = {"kernel": jnp.ones((2, 4, 3)), "scale": jnp.ones((2, 4))}
    matrices = {"kernel": True, "scale": False}
    rest = {"kernel": False, "scale": True}
    tx = optax.chain(optax.masked(hyperball(0.1), matrices), optax.masked(optax.scale_by_learning_rate(0.5), rest))
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_array_equal(updates["scale"], -0.5)
    assert jnp.abs(updates["kernel"]).max() < 1e-6  # along the weights there is nowhere to go


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


def test_a_parameter_whose_update_has_a_nan_is_nan_and_not_something_else():
    w, u = jnp.ones((2, 2)), jnp.ones((2, 2)).at[0, 0].set(jnp.nan)
    tx = hyperball(0.1)
    assert jnp.all(jnp.isnan(tx.update(u, tx.init(w), w)[0]))


@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_a_weight_of_one_number_stays_on_its_sphere(size):
    w, tx = jnp.full((1, 1), 2.0), hyperball(0.1)
    update = jax.jit(tx.update)(jnp.full((1, 1), size), tx.init(w), w)[0]
    assert abs((w + update).item()) == pytest.approx(2.0)

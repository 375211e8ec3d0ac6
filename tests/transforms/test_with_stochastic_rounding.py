"""Parameters of bfloat16 go on in the mean as those of float32 do, and the chance is the same everywhere."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import precond

rounded = precond.transforms.with_stochastic_rounding
SIZE = 20000


def tree(dtype=jnp.bfloat16, size=64):
    rng = np.random.default_rng(0)
    return {"kernel": jnp.asarray(rng.standard_normal((size, 8)), dtype), "bias": jnp.asarray(np.ones(8), dtype)}


def go_on(tx, params, grads, steps, state=None):
    state = tx.init(params) if state is None else state

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps)[0])((params, state))


@pytest.mark.parametrize("start", [1.0, -0.37, 3e-5, 700.0])
@pytest.mark.parametrize("step", [1e-4, -3e-3, 0.6123])
def test_a_step_goes_to_a_neighbour_of_the_sum_in_float32_and_to_the_sum_in_the_mean(start, step):
    params = jnp.full(SIZE, start, jnp.bfloat16)
    start = float(params[0])
    tx = rounded(optax.scale(-start))
    updates, _ = tx.update(jnp.full(SIZE, step), tx.init(params), params)
    new = optax.apply_updates(params, updates)
    assert new.dtype == jnp.bfloat16
    total = float(np.float32(start) - np.float32(start) * np.float32(step))
    found = np.unique(np.asarray(new, np.float64))
    spacing = 2.0 ** (np.floor(np.log2(abs(total))) - 7)
    low = np.floor(total / spacing) * spacing
    assert set(found) == {low, low + spacing}
    up = (total - low) / spacing
    deviation = np.sqrt(up * (1 - up) / SIZE) * spacing
    assert abs(np.mean(np.asarray(new, np.float64)) - total) < 4 * deviation


def test_the_chance_is_the_share_of_the_noise_that_is_carried():
    """All values of the noise once: the mean is exact."""
    x = jnp.full(2**16, 1 + 0.3 * 2.0**-7, jnp.float32)
    out = precond.linalg.round_stochastically(x, jnp.arange(2**16, dtype=jnp.uint16))
    assert np.mean(np.asarray(out, np.float64)) == float(x[0])


def test_weight_decay_of_1e_4_moves_what_rounding_to_the_nearest_leaves_where_it_is():
    params, steps = {"kernel": jnp.ones((100, 100), jnp.bfloat16)}, 500
    zeros = jax.tree.map(jnp.zeros_like, params)
    plain = optax.adamw(1.0, weight_decay=1e-4)
    stuck, _ = go_on(plain, params, zeros, steps)
    np.testing.assert_array_equal(stuck["kernel"], params["kernel"])
    moved, _ = go_on(rounded(plain), params, zeros, steps)
    mean = np.mean(np.asarray(moved["kernel"], np.float64))
    assert mean == pytest.approx((1 - 1e-4) ** steps, rel=1e-3)


def test_shampoo_in_bfloat16_decays_as_it_does_in_float32():
    params = {"kernel": jnp.ones((64, 64), jnp.bfloat16), "bias": jnp.ones(64, jnp.bfloat16)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = precond.shampoo(1e-2, weight_decay=1e-2, refresh=4)
    moved, state = go_on(rounded(tx), params, zeros, 200)
    assert np.mean(np.asarray(moved["kernel"], np.float64)) == pytest.approx((1 - 1e-4) ** 200, rel=2e-3)
    assert np.mean(np.asarray(moved["bias"], np.float64)) == pytest.approx((1 - 1e-4) ** 200, rel=1e-2)
    assert precond.metrics(state)["blocks/skipped"] == 0
    assert {x.dtype for x in jax.tree.leaves(optax.tree.get_all_with_path(state, "mu"))} <= {jnp.dtype("float32")}


@pytest.mark.parametrize("spec", [P("data"), P(None, "data"), P()])
def test_the_noise_is_the_same_on_every_mesh(spec):
    params, tx = tree(), rounded(optax.sgd(1e-3))
    grads = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    expected, _ = go_on(tx, params, grads, 5)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    put = {"kernel": NamedSharding(mesh, spec), "bias": NamedSharding(mesh, P())}
    actual, _ = go_on(tx, jax.device_put(params, put), jax.device_put(grads, put), 5)
    assert actual["kernel"].sharding.num_devices == 8
    chex.assert_trees_all_equal(actual, expected)


def test_the_noise_is_new_in_each_step_and_for_each_path_and_seed():
    x = jnp.full(1000, 1 + 2.0**-7, jnp.bfloat16)
    params = {"a": x, "b": x}
    grads = jax.tree.map(lambda x: jnp.full(x.shape, 2.0**-8), params)
    tx = rounded(optax.sgd(1.0))
    state = tx.init(params)
    first, state = tx.update(grads, state, params)
    second, _ = tx.update(grads, state, params)
    other, _ = rounded(optax.sgd(1.0), seed=1).update(grads, tx.init(params), params)
    for one, two in [(first["a"], first["b"]), (first["a"], second["a"]), (first["a"], other["a"])]:
        assert 0.4 < np.mean(np.asarray(one) == np.asarray(two)) < 0.6
    again, _ = tx.update({"b": grads["b"]}, tx.init({"b": x}), {"b": x})
    np.testing.assert_array_equal(again["b"], first["b"])  # whatever else there is


def test_a_run_that_is_taken_up_again_goes_on_in_the_same_way():
    params, tx = tree(), rounded(optax.adam(1e-3))
    grads = jax.tree.map(jnp.ones_like, params)
    expected, _ = go_on(tx, params, grads, 6)
    middle, state = go_on(tx, params, grads, 4)
    actual, _ = go_on(tx, middle, grads, 2, state)
    chex.assert_trees_all_equal(actual, expected)


def test_a_step_that_moves_nothing_leaves_all_as_it_is():
    params = tree()
    tx = rounded(precond.shampoo(1e-2, weight_decay=1e-2))
    bad = jax.tree.map(lambda x: x * jnp.nan, params)
    same, _ = go_on(tx, params, bad, 2)
    chex.assert_trees_all_equal(same, params)


def test_wider_parameters_are_updated_as_ever():
    params = {"kernel": tree()["kernel"], "bias": tree(jnp.float32)["bias"]}
    grads = jax.tree.map(jnp.ones_like, params)
    tx = rounded(optax.adam(1e-3))
    updates, _ = tx.update(grads, tx.init(params), params)
    expected, _ = optax.adam(1e-3).update(grads, optax.adam(1e-3).init(params), params)
    np.testing.assert_allclose(updates["bias"], expected["bias"], rtol=1e-6)
    assert updates["kernel"].dtype == jnp.float32


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match=r"optimizer=.*Call this function"):
        rounded(optax.adam)
    with pytest.raises(ValueError, match="seed=-1"):
        rounded(optax.adam(1e-3), seed=-1)
    with pytest.raises(TypeError, match="'bias' is of float16"):
        rounded(optax.adam(1e-3)).init({"bias": jnp.ones(2, jnp.float16)})
    tx, params = rounded(optax.sgd(1e-3)), tree()
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(params, tx.init(params))

"""Momentum and second moments in 16 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from precond.engine import entries_in_16_bits
from precond.linalg import FixedPoint, fixed_point

SHAPE = (2, 3, 4000)


def run(tx, grads):
    state, update = tx.init(grads[0]), jax.jit(tx.update)
    states = [state]
    for g in grads:
        _, state = update(g, state)
        states.append(state)
    return states


def gradients(steps, seed=0):
    rng = np.random.default_rng(seed)
    return [{"3x4000": jnp.asarray(rng.standard_normal(SHAPE), jnp.float32)} for _ in range(steps)]


def test_every_number_is_a_neighbour_of_what_the_transformation_makes_of_the_numbers_before():
    inner, grads = optax.scale_by_adam(), gradients(4)
    states = run(entries_in_16_bits(inner), grads)
    for g, old, new in zip(grads, states, states[1:], strict=False):
        before = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, old.in_16_bits)
        _, exact = inner.update(g, before)
        for name in ("mu", "nu"):
            x, near = getattr(exact, name)["3x4000"], getattr(new.in_16_bits, name)["3x4000"]
            assert near.dtype == jnp.bfloat16
            near = near.astype(jnp.float32)
            assert jnp.all(jnp.abs(near - x) <= 2.0**-7 * jnp.abs(x))
            assert jnp.any(near > x)
            assert jnp.any(near < x)
        up = []
        for name in ("mu", "nu"):
            near, x = (getattr(made, name)["3x4000"].astype(jnp.float32) for made in (new.in_16_bits, exact))
            up.append(jnp.abs(near) > jnp.abs(x))
        assert jnp.mean(up[0] == up[1]) < 0.6  # each has noise of its own
        assert new.in_16_bits.count == exact.count


def test_a_slow_average_goes_on_where_rounding_to_the_nearest_would_stop():
    g, steps = jnp.full(SHAPE, 0.9, jnp.float32), 200
    state = run(entries_in_16_bits(optax.ema(0.999, debias=False)), [{"3x4000": g}] * steps)[-1]
    exact = 0.9 * (1 - 0.999**steps)
    nearest = jnp.bfloat16(0)
    for _ in range(steps):
        nearest = (0.999 * nearest.astype(jnp.float32) + 0.001 * 0.9).astype(jnp.bfloat16)
    average = state.in_16_bits.ema["3x4000"].astype(jnp.float32)
    np.testing.assert_allclose(average.mean(), exact, rtol=0.002)
    assert abs(float(nearest) - exact) > 0.1 * exact
    assert len(set(np.asarray(average[0, 0]).tolist())) > 2  # entries are rounded each for itself


def test_in_fixed_point_every_number_is_a_neighbour_and_the_mean_over_the_noise_is_the_number():
    inner, grads = optax.trace(0.9), gradients(4)
    states = run(entries_in_16_bits(inner, "trace"), grads)
    for g, old, new in zip(grads, states, states[1:], strict=False):
        _, exact = inner.update(g, optax.TraceState({"3x4000": old.in_16_bits.trace["3x4000"].numbers()}))
        x, stored = exact.trace["3x4000"], new.in_16_bits.trace["3x4000"]
        assert stored.integers.dtype == jnp.int16
        assert jnp.all(stored.scales < jnp.max(jnp.abs(x), axis=2) * 2.0**-14)
        assert jnp.all(jnp.frexp(stored.scales)[0] == 0.5)
        steps = (stored.numbers() - x) / stored.scales[..., None]
        assert jnp.max(jnp.abs(steps)) <= 1.01
        assert jnp.min(steps) < -0.9
        assert jnp.max(steps) > 0.9
        assert abs(jnp.mean(steps)) < 0.02


def test_numbers_in_fixed_point_stay_the_same_whatever_the_noise():
    integers = jnp.arange(-32767, 32768, dtype=jnp.int16).reshape(1, 5, -1)
    stored = fixed_point(FixedPoint(integers, jnp.full((1, 5), 2.0**-20)).numbers())
    for noise in (0, 1, 2**15, 2**16 - 1):
        again = fixed_point(stored.numbers(), jnp.full(integers.shape, noise, jnp.uint16))
        np.testing.assert_array_equal(again.numbers(), stored.numbers())


def test_many_skipped_steps_change_nothing():
    tx, params = precond.soap(1e-2, memory=precond.Memory(), refresh=1000), {"w": jnp.ones((64, 64))}
    state, update = tx.init(params), jax.jit(tx.update)
    for step in range(3):
        _, state = update({"w": jax.random.normal(jax.random.key(step), (64, 64))}, state, params)
    after = state
    for _ in range(20):
        _, after = update({"w": jnp.full((64, 64), jnp.nan)}, after, params)
    leaves = zip(jax.tree.leaves(state[0].stacks.stacks), jax.tree.leaves(after[0].stacks.stacks), strict=True)
    for old, new in leaves:
        np.testing.assert_array_equal(old, new)


def test_only_the_fields_that_are_named_are_in_fixed_point():
    inner, stacks = optax.scale_by_adam(), {"3x4000": jnp.ones(SHAPE)}
    moments = entries_in_16_bits(inner, "mu").init(stacks).in_16_bits
    assert moments.mu["3x4000"].integers.dtype == jnp.int16
    assert moments.nu["3x4000"].dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="fixed_point='momentum' is not a field of the state"):
        entries_in_16_bits(inner, "momentum").init(stacks)


@pytest.mark.parametrize("alias", [precond.soap, precond.kl_soap])
@pytest.mark.parametrize("magnitude", [None, precond.transforms.scale_by_mean_square()])
def test_a_momentum_that_is_rotated_is_in_fixed_point(alias, magnitude):
    tx = alias(1e-2, memory=precond.Memory(), magnitude=magnitude)
    state = jax.eval_shape(tx.init, {"w": jax.ShapeDtypeStruct((6, 4), jnp.float32)})
    leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, FixedPoint))
    fixed = [x for x in leaves if isinstance(x, FixedPoint)]
    assert [(x.integers.shape, x.scales.shape) for x in fixed] == [((1, 6, 4), (1, 6))]


def test_a_basis_hides_small_gradients_behind_the_rounding_of_large_ones_in_bfloat16_but_not_in_fixed_point():
    # Two directions that are no axes: along one the gradient is 1000 times as large, and along the other it is steady.
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.standard_normal((64, 64)))
    small = 1e-3 * np.outer(q[:, 1], np.ones(64))
    errors = {}
    for name, fields in (("bfloat16", ()), ("fixed point", ("ema",))):
        tx = entries_in_16_bits(optax.ema(0.9, debias=False), *fields)
        grads = [
            {"64x64": jnp.asarray((np.outer(q[:, 0], rng.standard_normal(64)) + small)[None], jnp.float32)}
            for _ in range(20)
        ]
        state, exact = tx.init(grads[0]), np.zeros((64, 64))
        for g in grads:
            moved, state = tx.update(g, state)
            exact = 0.9 * exact + 0.1 * np.asarray(g["64x64"][0], np.float64)
        off = q.T @ (np.asarray(moved["64x64"][0], np.float64) - exact)
        errors[name] = np.linalg.norm(off[1]) / np.linalg.norm((q.T @ exact)[1])
    assert errors["bfloat16"] > 0.1
    assert errors["fixed point"] < 0.005


def test_factors_roots_and_numbers_of_whole_blocks_stay_as_they_are():
    inner = precond.graft(
        precond.scale_by_kronecker(precond.outer_products(), precond.eigenbasis(0.9)),
        precond.per_block(precond.transforms.scale_by_mean_square()),
    )
    stacks = {"4x4": jnp.ones((2, 4, 4))}
    wide, narrow = inner.init(stacks), entries_in_16_bits(inner).init(stacks).in_16_bits

    def dtypes(state):
        return jax.tree.map(lambda x: x.dtype, state)

    changed = wide.direction.roots["4x4"].moments.nu
    assert narrow.direction.roots["4x4"].moments.nu.dtype == jnp.bfloat16
    assert dtypes(narrow.direction.statistics) == dtypes(wide.direction.statistics)
    assert dtypes(narrow.direction.roots["4x4"].derived) == dtypes(wide.direction.roots["4x4"].derived)
    assert dtypes(narrow.magnitude) == dtypes(wide.magnitude)
    both = zip(jax.tree.leaves(dtypes(wide)), jax.tree.leaves(dtypes(narrow)), strict=True)
    assert sum(a != b for a, b in both) == len([changed])


def test_eigenvalues_stay_as_they_are_beside_a_stack_of_their_shape():
    inner = precond.scale_by_kronecker(precond.kl(), precond.roots.averaged_eigenvalues(), momentum=optax.ema(0.9))
    stacks = {"4x4": jnp.ones((2, 4, 4)), "4": jnp.ones((2, 4))}
    state = jax.eval_shape(entries_in_16_bits(inner).init, stacks).in_16_bits
    assert {x.dtype.name for x in state.roots["4x4"].moments.values} == {"float32"}
    assert {x.dtype.name for x in jax.tree.leaves(state.momentum) if x.ndim > 1} == {"bfloat16"}


@pytest.mark.parametrize("alias", [precond.shampoo, precond.soap])
def test_a_block_whose_gradient_is_not_finite_keeps_every_bit(alias):
    tx = alias(1e-2, memory=precond.Memory(), block_size=4, refresh=10)
    params = {"w": jnp.ones((8, 4))}
    state = tx.init(params)
    for step in range(3):  # roots are not due again
        grads = {"w": jax.random.normal(jax.random.key(step), (8, 4))}
        _, state = tx.update(grads, state, params)
    _, after = tx.update({"w": grads["w"].at[0, 0].set(jnp.nan)}, state, params)
    old, new = (precond.checkpoints.by_path(tx, params, x)["parameters"]["w"] for x in (state, after))
    entries = [name for name in old if name.rpartition("/")[2] in ("ema", "nu")]
    assert len(entries) == 2
    for name in entries:
        before, now = old[name].reshape(2, 16), new[name].reshape(2, 16)
        np.testing.assert_array_equal(before[0], now[0])
        assert np.any(before[1] != now[1])


@pytest.mark.parametrize("alias", [precond.shampoo, precond.soap])
def test_a_run_on_eight_devices_has_the_same_noise(alias):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    params = {f"w{i}": jnp.ones((4, 4)) for i in range(8)}
    alone = alias(1e-2, memory=precond.Memory(), axis=precond.sharded(None, multiple=8))
    divided = alias(1e-2, memory=precond.Memory(), axis="data", mesh=mesh)
    ends = []
    for tx in (alone, divided):
        state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
        for t in range(3):
            grads = optax.tree.random_like(jax.random.key(t), params)
            _, state = update(grads, state, params)
        ends.append(precond.checkpoints.by_path(tx, params, state)["parameters"])
    for path in params:
        entries = [name for name in ends[0][path] if name.rpartition("/")[2] in ("ema", "nu")]
        assert len(entries) == 2
        for name in entries:
            np.testing.assert_array_equal(ends[0][path][name], ends[1][path][name])

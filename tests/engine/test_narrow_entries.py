"""Momentum and second moments in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import precond
from precond.engine import entries_in_bfloat16

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
    states = run(entries_in_bfloat16(inner), grads)
    for g, old, new in zip(grads, states, states[1:], strict=False):
        before = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, old.in_bfloat16)
        _, exact = inner.update(g, before)
        for name in ("mu", "nu"):
            x, near = getattr(exact, name)["3x4000"], getattr(new.in_bfloat16, name)["3x4000"]
            assert near.dtype == jnp.bfloat16
            near = near.astype(jnp.float32)
            assert jnp.all(jnp.abs(near - x) <= 2.0**-7 * jnp.abs(x))
            assert jnp.any(near > x)
            assert jnp.any(near < x)
        up = []
        for name in ("mu", "nu"):
            near, x = (getattr(made, name)["3x4000"].astype(jnp.float32) for made in (new.in_bfloat16, exact))
            up.append(jnp.abs(near) > jnp.abs(x))
        assert jnp.mean(up[0] == up[1]) < 0.6  # each has noise of its own
        assert new.in_bfloat16.count == exact.count


def test_a_slow_average_goes_on_where_rounding_to_the_nearest_would_stop():
    g, steps = jnp.full(SHAPE, 0.9, jnp.float32), 200
    state = run(entries_in_bfloat16(optax.ema(0.999, debias=False)), [{"3x4000": g}] * steps)[-1]
    exact = 0.9 * (1 - 0.999**steps)
    nearest = jnp.bfloat16(0)
    for _ in range(steps):
        nearest = (0.999 * nearest.astype(jnp.float32) + 0.001 * 0.9).astype(jnp.bfloat16)
    average = state.in_bfloat16.ema["3x4000"].astype(jnp.float32)
    np.testing.assert_allclose(average.mean(), exact, rtol=0.002)
    assert abs(float(nearest) - exact) > 0.1 * exact
    assert len(set(np.asarray(average[0, 0]).tolist())) > 2  # entries are rounded each for itself


def test_factors_roots_and_numbers_of_whole_blocks_stay_as_they_are():
    inner = precond.graft(
        precond.scale_by_kronecker(precond.outer_products(), precond.eigenbasis(0.9)),
        precond.per_block(precond.transforms.scale_by_mean_square()),
    )
    stacks = {"4x4": jnp.ones((2, 4, 4))}
    wide, narrow = inner.init(stacks), entries_in_bfloat16(inner).init(stacks).in_bfloat16

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
    state = jax.eval_shape(entries_in_bfloat16(inner).init, stacks).in_bfloat16
    assert {x.dtype.name for x in state.roots["4x4"].moments.values} == {"float32"}
    assert {x.dtype.name for x in jax.tree.leaves(state.momentum) if x.ndim > 1} == {"bfloat16"}


def test_a_block_whose_gradient_is_not_finite_keeps_every_bit():
    tx = precond.shampoo(1e-2, memory=precond.Memory(), block_size=4)
    params = {"w": jnp.ones((8, 4))}
    grads = {"w": jax.random.normal(jax.random.key(0), (8, 4))}
    _, state = tx.update(grads, tx.init(params), params)
    _, after = tx.update({"w": grads["w"].at[0, 0].set(jnp.nan)}, state, params)
    old, new = (precond.checkpoints.by_path(tx, params, x)["parameters"]["w"] for x in (state, after))
    for name in ("0/stacks/stacks/momentum/ema", "0/stacks/stacks/inner/magnitude/nu"):
        np.testing.assert_array_equal(old[name][:4], new[name][:4])
        assert np.any(old[name][4:] != new[name][4:])


def test_a_run_on_eight_devices_has_the_same_noise():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    params = {f"w{i}": jnp.ones((4, 4)) for i in range(8)}
    alone = precond.shampoo(1e-2, memory=precond.Memory(), axis=precond.sharded(None, multiple=8))
    divided = precond.shampoo(1e-2, memory=precond.Memory(), axis="data", mesh=mesh)
    ends = []
    for tx in (alone, divided):
        state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
        for t in range(3):
            grads = optax.tree.random_like(jax.random.key(t), params)
            _, state = update(grads, state, params)
        ends.append(precond.checkpoints.by_path(tx, params, state)["parameters"])
    for path in params:
        for name in ("0/stacks/stacks/momentum/ema", "0/stacks/stacks/inner/magnitude/nu"):
            np.testing.assert_array_equal(ends[0][path][name], ends[1][path][name])

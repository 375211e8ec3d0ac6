"""Shampoo with factors of low rank, against its definition by dense singular values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from precond.linalg import empty_sketch, sketched
from precond.transforms import scale_by_sketch

B2, DAMPING = 0.9, 1e-6


def defined(gradients, rank, power, period=1):
    """Yield the direction of each step: B = [sqrt(b2) U sqrt(s), sqrt(1 - b2) G] is decomposed, and cut at rank r."""
    shape = gradients[0].shape
    factors = [np.zeros((d, d)) for d in shape]
    tails, terms = [0.0, 0.0], 0
    for t, g in enumerate(gradients):
        if t % period == 0:
            terms += 1
            for axis, x in enumerate((g, g.T)):
                values, vectors = np.linalg.eigh(B2 * factors[axis] + (1 - B2) * x @ x.T)
                values, vectors = values[::-1].clip(0), vectors[:, ::-1]
                cut = values[rank] if rank < len(values) else 0.0
                kept = (values[:rank] - cut).clip(0)
                factors[axis] = (vectors[:, :rank] * kept) @ vectors[:, :rank].T
                tails[axis] = B2 * tails[axis] + cut
        out = g
        for axis in range(2):
            values, vectors = np.linalg.eigh(factors[axis])
            values = values.clip(0) + tails[axis]
            values = (values + DAMPING * values.max()) / (1 - B2**terms)
            root = (vectors * values**-power) @ vectors.T
            out = root @ out if axis == 0 else out @ root
        yield out


@pytest.mark.parametrize("shape", [(7, 5), (20, 3), (3, 20)])
@pytest.mark.parametrize("rank", [1, 2, 30])
@pytest.mark.parametrize("period", [1, 3])
def test_it_follows_the_definition(shape, rank, period):
    rng = np.random.default_rng(0)
    gradients = [rng.standard_normal(shape) for _ in range(8)]
    with jax.enable_x64(True):
        tx = scale_by_sketch(rank, B2, damping=DAMPING, period=period)
        stacks = {"stack": jnp.zeros((1, *shape))}
        state, update = tx.init(stacks), jax.jit(tx.update)
        for g, expected in zip(gradients, defined(gradients, rank, 1 / 4, period), strict=True):
            updates, state = update({"stack": jnp.asarray(g[None])}, state)
            np.testing.assert_allclose(updates["stack"][0], expected, rtol=1e-7, atol=1e-9)


def test_with_all_eigenpairs_it_is_shampoo():
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        sketch = scale_by_sketch(10, B2, damping=DAMPING, period=1)
        dense = precond.scale_by_kronecker(
            precond.outer_products(B2),
            precond.inverse_root(power=1 / 4, method=precond.eigh(), damping=precond.relative(DAMPING)),
            refresh=1,
        )
        stacks = {"6x5": jnp.zeros((2, 6, 5))}
        states, updates = [sketch.init(stacks), dense.init(stacks)], (jax.jit(sketch.update), jax.jit(dense.update))
        for _ in range(8):
            g = {"6x5": jnp.asarray(rng.standard_normal((2, 6, 5)))}
            (first, states[0]), (second, states[1]) = (update(g, s) for update, s in zip(updates, states, strict=True))
        np.testing.assert_allclose(first["6x5"], second["6x5"], rtol=1e-6)


def test_what_a_sketch_lacks_is_at_most_its_tail_in_every_direction():
    rng = np.random.default_rng(2)
    with jax.enable_x64(True):
        sketch, exact = empty_sketch(1, 12, 4, jnp.float64), np.zeros((12, 12))
        for _ in range(20):
            x = rng.standard_normal((12, 3)) * rng.uniform(0.1, 3, (12, 1))
            exact = B2 * exact + (1 - B2) * x @ x.T
            sketch = sketched(sketch, jnp.asarray(x[None]), B2)
        u, s = np.asarray(sketch.vectors[0]), np.asarray(sketch.values[0])
        lacking = np.linalg.eigvalsh(exact - (u * s) @ u.T)
        assert lacking.min() > -1e-12
        assert 0.1 < lacking.max() <= float(sketch.tail[0]) + 1e-12


def direction(rank=4, period=1):
    return precond.graft(scale_by_sketch(rank, period=period), precond.per_block(optax.scale_by_adam()))


def both_sides(path, leaf):
    return precond.View((0, 1)) if leaf.ndim == 2 else None


def test_a_long_side_takes_as_many_numbers_as_the_rank_times_its_length():
    tx = precond.blocked(scale_by_sketch(4), block_size=None, views=both_sides)
    state = jax.eval_shape(tx.init, {"table": jax.ShapeDtypeStruct((50_000, 8), jnp.float32)})
    kept = sum(x.size for x in jax.tree.leaves(state.stacks.stacks))
    assert kept == 4 * (50_000 + 8) + 2 * 4 + 2 + 1


def test_a_block_that_is_not_finite_keeps_its_sketches():
    tx = precond.blocked(direction(), block_size=4, views=both_sides)
    params = {"w": jnp.ones((8, 4))}
    state = tx.init(params)
    for step in range(2):
        grads = {"w": jax.random.normal(jax.random.key(step), (8, 4))}
        _, state = tx.update(grads, state)
    updates, after = tx.update({"w": grads["w"].at[0, 0].set(jnp.nan)}, state)
    assert np.isfinite(updates["w"]).all()
    pairs = zip(jax.tree.leaves(state.stacks.stacks), jax.tree.leaves(after.stacks.stacks), strict=True)
    rows = [(old, new) for old, new in pairs if old.ndim]
    assert rows
    for old, new in rows:
        np.testing.assert_array_equal(old[0], new[0])


def test_the_number_of_devices_changes_nothing():
    mesh, ends = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)), []
    params = {f"w{i}": jnp.ones((6, 4)) for i in range(8)}
    for axis in ({}, {"axis": "data", "mesh": mesh}):
        tx = precond.blocked(direction(rank=2, period=2), block_size=None, views=both_sides, **axis)
        state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
        for step in range(4):
            updates, state = update(optax.tree.random_like(jax.random.key(step), params), state)
        ends.append(updates)
        sizes = {x.sharding.shard_shape(x.shape)[0] for x in jax.tree.leaves(state.stacks.stacks) if x.ndim}
    assert sizes == {1}
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-3, atol=1e-4), *ends)


@pytest.mark.parametrize("size", [1e-30, 1e-19, 1e-18, 1e-17, 1e-12, 1e12, 1e18])
@pytest.mark.parametrize("thin", [False, True])
def test_no_size_of_gradients_gives_nan(size, thin):
    tx, params = precond.blocked(direction(), block_size=None, views=both_sides), {"w": jnp.ones((30, 4))}
    state = tx.init(params)
    for step in range(4):
        g = jax.random.normal(jax.random.key(step), (30, 1 if thin else 4)) * jnp.ones((30, 4))
        updates, state = tx.update({"w": (size if step < 3 else 1.0) * g}, state)
        assert jnp.isfinite(updates["w"]).all()


def test_it_has_a_derivative():
    params = {"3x4": jnp.ones((1, 3, 4))}
    grads = [jax.random.normal(jax.random.key(i), (1, 3, 1)) * jnp.ones((1, 3, 4)) for i in range(3)]

    def moved(a):
        tx = scale_by_sketch(3, period=1)
        state = tx.init(params)
        for g in grads:
            updates, state = tx.update({"3x4": a * g}, state)
        return updates["3x4"].sum()

    with jax.enable_x64(False):
        assert jnp.isfinite(jax.jit(jax.grad(moved))(1.0))


def test_scale_does_not_matter_and_zeros_stay_zeros():
    params = {"w": jnp.ones((6, 4))}
    tx, ends = precond.blocked(direction(), block_size=None, views=both_sides), []
    for size in (1e-6, 1.0, 1e6):
        state = tx.init(params)
        for step in range(3):
            updates, state = tx.update({"w": size * jax.random.normal(jax.random.key(step), (6, 4))}, state)
        ends.append(updates["w"])
    np.testing.assert_allclose(ends[0], ends[1], rtol=0.02, atol=1e-3)
    np.testing.assert_allclose(ends[2], ends[1], rtol=0.02, atol=1e-3)
    zeros = jax.tree.map(jnp.zeros_like, params)
    assert not tx.update(zeros, tx.init(params))[0]["w"].any()


def test_it_trains_a_long_table_in_fewer_steps_than_adam():
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.standard_normal((8, 8)))[0] * np.geomspace(1, 0.03, 8)
    inputs, target = jnp.asarray(basis, jnp.float32), jnp.asarray(rng.standard_normal((300, 8)), jnp.float32)

    def last_loss(inner, rate):
        tx = precond.blocked(inner, block_size=None, views=both_sides)

        def step(carry, _):
            params, state = carry
            loss, grads = jax.value_and_grad(lambda w: jnp.sum(jnp.square((w - target) @ inputs)))(params["table"])
            updates, state = tx.update({"table": grads}, state)
            return (jax.tree.map(lambda p, u: p - rate * u, params, updates), state), loss

        params = {"table": jnp.zeros((300, 8))}
        return float(jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), None, 100))(params)[1][-1])

    adam = min(last_loss(precond.per_block(optax.scale_by_adam()), rate) for rate in (0.01, 0.03, 0.1))
    assert min(last_loss(direction(rank=8), rate) for rate in (0.01, 0.03, 0.1)) < 0.5 * adam


def test_single_blocks_and_complex_blocks_are_refused():
    params = {"w": jnp.ones((6, 4))}
    tx = precond.blocked(precond.per_block(scale_by_sketch(2)), block_size=None, views=both_sides)
    with pytest.raises((ValueError, TypeError), match="scale_by_sketch"):
        tx.update(params, tx.init(params))
    for stacks in ({"w": jnp.ones((6, 4))}, {"w": jnp.ones(6)}):
        with pytest.raises(ValueError, match=r"put it into precond\.blocked"):
            scale_by_sketch(2).update(stacks, scale_by_sketch(2).init(stacks))
    empty = {"6x4": jnp.ones((0, 6, 4))}
    assert scale_by_sketch(2).update(empty, scale_by_sketch(2).init(empty))[0]["6x4"].shape == (0, 6, 4)
    with pytest.raises(TypeError, match="takes real blocks"):
        precond.blocked(scale_by_sketch(2), views=both_sides).init({"w": jnp.ones((4, 4), jnp.complex64)})

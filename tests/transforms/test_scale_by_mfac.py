"""M-FAC against the dense matrix, on one device and on many."""

import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import precond

SHAPES = {"w": (16, 3), "b": (8,)}
DIMENSION = 16 * 3 + 8


def random_gradients(steps, scale=1.0, seed=0, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return [{k: scale * rng.standard_normal(s) for k, s in shapes.items()} for _ in range(steps)]


def flat(tree):
    return np.concatenate([np.ravel(tree[k]) for k in SHAPES])


def dense(grads, window, damping):
    """F^-1 g by a d x d system in float64."""
    rows = np.stack([flat(g) for g in grads])[-window:]
    fisher = damping * np.eye(DIMENSION) + rows.T @ rows / window
    return np.linalg.solve(fisher, rows[-1])


def recursion(grads, window, damping):
    """The official implementation's oracle, from the identity over the damping, one gradient after the other."""
    h = np.eye(DIMENSION) / damping
    for g in grads[-window:]:
        hg = h @ flat(g)
        h -= np.outer(hg, hg) / (window + flat(g) @ hg)
    return h @ flat(grads[-1])


def run(tx, grads, dtype=None):
    state, update, out = tx.init(jax.tree.map(lambda g: jnp.asarray(g, dtype), grads[0])), jax.jit(tx.update), []
    for g in grads:
        updates, state = update(jax.tree.map(lambda x: jnp.asarray(x, dtype), g), state)
        out.append(updates)
    return out, state


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("window", [1, 4, 7])
def test_every_update_is_the_dense_one_before_and_after_the_window_is_full(window):
    grads = random_gradients(13)
    out, state = run(precond.scale_by_mfac(window, 1e-2), grads)
    for t, updates in enumerate(out, start=1):
        for oracle in (dense, recursion):
            np.testing.assert_allclose(flat(updates), oracle(grads[:t], window, 1e-2), rtol=1e-10, atol=1e-12)
    rows = np.stack([flat({k: state.window[k][i] for k in SHAPES}) for i in range(window)])
    np.testing.assert_allclose(state.gram, rows @ rows.T, rtol=1e-12, atol=1e-12)


def test_in_float32_nothing_cancels():
    """A small damping: the textbook form loses all digits, and is asserted to, so that the test can tell."""
    grads = random_gradients(9)
    window, damping = 6, 1e-7
    updates = run(precond.scale_by_mfac(window, damping), grads, jnp.float32)[0][-1]
    exact = dense(grads, window, damping)
    assert np.abs(flat(updates) - exact).max() < 1e-4 * np.abs(exact).max()
    rows = np.stack([flat(g) for g in grads])[-window:].astype(np.float32)
    inner = np.linalg.solve(rows @ rows.T + np.float32(window * damping) * np.eye(window, dtype="f4"), rows @ rows[-1])
    textbook = (rows[-1] - rows.T @ inner) / np.float32(damping)
    assert np.abs(textbook - exact).max() > 0.1 * np.abs(exact).max()


@pytest.mark.parametrize("damping", [0.0, 1e-30, 1e-5])
def test_gradients_of_any_size_and_equal_ones_give_finite_updates(damping):
    tx = precond.scale_by_mfac(4, damping)
    for scale in (1e-18, 1e-3, 1e3, 1e15):
        (g,) = random_gradients(1, scale)
        out, state = run(tx, [g] * 6, jnp.float32)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves((out, state))), scale
        assert all(np.any(x) for x in jax.tree.leaves(out)), scale


@pytest.mark.usefixtures("x64")
def test_a_gradient_that_is_not_finite_does_not_enter_the_window():
    grads = random_gradients(7)
    bad = grads[0] | {"b": np.full(8, np.nan)}
    expected, after = run(precond.scale_by_mfac(3, 1e-2), grads)
    actual, state = run(precond.scale_by_mfac(3, 1e-2), [*grads[:5], bad, *grads[5:]])
    assert not any(np.any(x) for x in jax.tree.leaves(actual.pop(5)))
    chex.assert_trees_all_equal((actual, state), (expected, after))


@pytest.mark.usefixtures("x64")
def test_complex_gradients_are_pairs_of_real_ones():
    rng = np.random.default_rng(0)
    z = [rng.standard_normal(28) + 1j * rng.standard_normal(28) for _ in range(5)]
    out, _ = run(precond.scale_by_mfac(3, 1e-2), [{"z": x} for x in z])
    pairs = [{"w": np.concatenate([x.real, x.imag])[:48].reshape(16, 3), "b": np.r_[x.real, x.imag][48:]} for x in z]
    expected = dense(pairs, 3, 1e-2)
    np.testing.assert_allclose(np.r_[out[-1]["z"].real, out[-1]["z"].imag], expected, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_the_momentum_comes_after():
    grads = random_gradients(6)
    out, _ = run(precond.mfac(0.1, window=4, damping=1e-2, b1=0.8), grads)
    v = 0
    for t in range(6):
        v = 0.8 * v + 0.2 * dense(grads[: t + 1], 4, 1e-2)
    np.testing.assert_allclose(flat(out[-1]), -0.1 * v, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_inside_blocked_it_is_the_same():
    grads = random_gradients(6)
    expected, _ = run(precond.scale_by_mfac(4, 1e-2), [{"w": g["w"]} for g in grads])
    views = [("w", {"axes": [0, 1]})]
    tx = precond.blocked(precond.scale_by_mfac(4, 1e-2), block_size=4, views=views)
    actual, _ = run(tx, [{"w": g["w"]} for g in grads])
    chex.assert_trees_all_close(actual, expected, rtol=1e-12)


def collectives(compiled):
    return re.findall(r"= (.+?) (all-[a-z]+|reduce-scatter|collective-permute)\(", compiled.as_text())


def spread(tx, params, grads, layout, window_layout):
    """Update on eight devices: the updates, the last state, and the collectives of one step."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))

    def place(tree, specs):
        return jax.tree.map(lambda x, s: jax.device_put(jnp.asarray(x), NamedSharding(mesh, s)), tree, specs)

    shapes = jax.eval_shape(tx.init, params)
    specs = shapes._replace(count=P(), gram=P(), known=P(), window=window_layout)
    shardings = jax.tree.map(lambda s: NamedSharding(mesh, s), specs, is_leaf=lambda s: isinstance(s, P))
    state = jax.jit(tx.init, out_shardings=shardings)(place(params, layout))
    out_shardings = (jax.tree.map(lambda s: NamedSharding(mesh, s), layout), shardings)
    step = jax.jit(tx.update, out_shardings=out_shardings).lower(place(grads[0], layout), state).compile()
    out = []
    for g in grads:
        updates, state = step(place(g, layout), state)
        out.append(updates)
    return out, state, collectives(step)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("sharded", [True, False], ids=["sharded parameters", "replicated parameters"])
def test_a_sharded_window_changes_nothing_and_sends_a_row(sharded):
    grads, tx = random_gradients(6), precond.scale_by_mfac(4, 1e-2)
    params = jax.tree.map(jnp.asarray, grads[0])
    layout = {"w": P("x"), "b": P("x")} if sharded else {"w": P(), "b": P()}
    window = {"w": P(None, "x"), "b": P(None, "x")}
    expected, _ = run(tx, grads)
    actual, state, sent = spread(tx, params, grads, layout, window)
    chex.assert_trees_all_close(actual, expected, rtol=1e-12, atol=1e-13)
    assert {x.addressable_shards[0].data.size * 8 for x in state.window.values()} == {4 * 48, 4 * 8}
    kinds = [kind for _, kind in sent]
    assert "all-reduce" in kinds
    gathers = [shape for shape, kind in sent if kind == "all-gather"]
    assert not gathers if sharded else all(np.prod(numbers(s)) <= 48 for s in gathers)
    assert set(kinds) <= {"all-reduce", "all-gather"}


def numbers(shape):
    return [int(n) for n in re.findall(r"\d+", shape.split("[")[1].split("]")[0])]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("check_vma", [True, False])
def test_inside_the_users_own_shard_map_it_is_the_same(check_vma):
    grads = random_gradients(6)
    expected, _ = run(precond.scale_by_mfac(4, 1e-2), grads)
    tx = precond.scale_by_mfac(4, 1e-2, axis="x")
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = {"w": P("x"), "b": P("x")}
    rows = {"w": P(None, "x"), "b": P(None, "x")}
    kept = jax.eval_shape(tx.init, grads[0])._replace(count=P(), gram=P(), known=P(), window=rows)

    def local(function, ins, outs):
        return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=ins, out_specs=outs, check_vma=check_vma))

    init = local(tx.init, (specs,), kept)
    update = local(lambda g, s: tx.update(g, s), (specs, kept), (specs, kept))
    state = init(jax.tree.map(jnp.asarray, grads[0]))
    for g, e in zip(grads, expected, strict=True):
        updates, state = update(jax.tree.map(jnp.asarray, g), state)
        chex.assert_trees_all_close(updates, e, rtol=1e-12, atol=1e-13)


# The sparse window of EFCP


def feedback(density, size):
    return precond.transforms.error_feedback(precond.transforms.block_top_k(density, block_size=size))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("density", "size"), [(0.01, 32768), (0.2, 7)])
def test_behind_error_feedback_a_sparse_window_is_the_dense_one(density, size):
    grads = random_gradients(9)
    rows = precond.transforms.sparse_rows(density, block_size=size)
    expected, dense_state = run(optax.chain(feedback(density, size), precond.scale_by_mfac(4, 1e-2)), grads)
    actual, state = run(optax.chain(feedback(density, size), precond.scale_by_mfac(4, 1e-2, rows=rows)), grads)
    chex.assert_trees_all_close(actual, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(state[1].gram, dense_state[1].gram, rtol=1e-13, atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_alone_it_preconditions_what_it_stores():
    grads = random_gradients(6)
    actual, _ = run(precond.scale_by_mfac(4, 1e-2, rows=precond.transforms.sparse_rows(0.3, block_size=10)), grads)
    compressed, _ = run(precond.transforms.block_top_k(0.3, block_size=10), grads)
    for t, updates in enumerate(actual, start=1):
        np.testing.assert_allclose(flat(updates), dense(compressed[:t], 4, 1e-2), rtol=1e-10, atol=1e-12)


def test_a_sparse_window_has_six_bytes_for_every_entry_that_stays():
    params = {"w": jnp.zeros((300, 400)), "b": jnp.zeros(70), "scalar": jnp.zeros(())}
    state = jax.eval_shape(precond.mfac(1e-3, window=128, density=0.01).init, params)
    found = optax.tree.get(state, "window")
    # Three whole blocks of 32768 entries and one of 21696; one of 70; one of 1.
    stay = 3 * 328 + 217 + 1 + 1
    assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(found)) == 128 * stay * (4 + 2)
    whole = optax.tree.get(jax.eval_shape(precond.mfac(1e-3, window=128).init, params), "window")
    assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(whole)) > 66 * 128 * stay * 6


@pytest.mark.usefixtures("x64")
def test_the_alias_with_a_density_is_efcp_and_leaves_out_what_is_not_finite():
    grads = random_gradients(7)
    expected, error = [], jax.tree.map(np.zeros_like, grads[0])
    rows, v = [], 0
    for g in grads:
        error = {k: error[k] + g[k] for k in SHAPES}
        keep = {k: np.abs(error[k]) >= np.sort(np.abs(error[k]), None)[-int(np.ceil(0.2 * g[k].size))] for k in SHAPES}
        rows.append({k: np.where(keep[k], error[k], 0) for k in SHAPES})
        error = {k: error[k] - rows[-1][k] for k in SHAPES}
        v = 0.8 * v + 0.2 * dense(rows, 4, 1e-2)
        expected.append(-0.1 * v)
    tx = precond.mfac(0.1, window=4, damping=1e-2, b1=0.8, density=0.2)
    out, state = run(tx, grads)
    np.testing.assert_allclose(np.stack([flat(u) for u in out]), expected, rtol=1e-9, atol=1e-13)
    bad = grads[0] | {"b": np.full(8, np.inf)}
    _, after = run(tx, [*grads[:3], bad, *grads[3:]])
    assert precond.metrics(after)["steps/skipped"] == 1
    for a, b in zip(jax.tree.leaves(after[0].inner), jax.tree.leaves(state[0].inner), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("broken", [False, True])
def test_a_sparse_window_of_shards_is_that_of_the_whole_with_blocks_like_the_shards(broken):
    grads = random_gradients(5, shapes={"w": (16, 3)})
    if broken:
        grads[2]["w"][5, 1] = np.nan  # on one device, and all of them leave the step out
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))

    def make(axis):
        sparse = precond.scale_by_mfac(3, 1e-2, rows=precond.transforms.sparse_rows(0.5, block_size=6), axis=axis)
        return precond.transforms.finite_steps(optax.chain(feedback(0.5, 6), sparse), axis=axis)

    def all_steps(grads):
        tx = make("x")
        state, out = tx.init(grads[0]), []
        for g in grads:
            updates, state = tx.update(g, state)
            out.append(updates)
        return out

    local = jax.shard_map(all_steps, mesh=mesh, in_specs=P("x"), out_specs=P("x"))
    expected, _ = run(make(None), grads)
    actual = jax.jit(local)(jax.tree.map(jnp.asarray, grads))
    chex.assert_trees_all_close(actual, expected, rtol=1e-12, atol=1e-14)
    assert not broken or not np.any(actual[2]["w"])


# The window of EFCP in low rank


@pytest.mark.parametrize(
    ("what", "reader"), [({"density": 0.1}, "sparse_rows"), ({"rank": 1}, "low_rank_rows"), ({}, None)]
)
def test_a_matrix_on_explicit_axes_is_read_in_shards_or_refused(what, reader):
    """Sparse and low-rank rows read whole matrices. In the user's own `shard_map`, a shard is one."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    tx = precond.mfac(0.1, window=2, **what)
    with jax.set_mesh(mesh):
        grads = {"kernel": jax.device_put(jnp.ones((32, 8)), NamedSharding(mesh, P("x")))}

        def step(g):
            return tx.update(g, tx.init(g), g)[0]

        if reader is not None:
            with pytest.raises(ValueError, match=rf"{reader}\(\) reads each parameter as one piece, .* \['x'\]"):
                jax.jit(step)(grads)
            step = jax.shard_map(step, in_specs=P("x"), out_specs=P("x"))
        assert jax.jit(step)(grads)["kernel"].sharding.spec == P("x", None)


@pytest.mark.parametrize("make", [precond.transforms.block_top_k, precond.transforms.low_rank])
def test_what_compresses_refuses_a_divided_matrix_too(make):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    grads = {"kernel": jax.device_put(jnp.ones((32, 32)), NamedSharding(mesh, P(None, "x")))}
    step = jax.jit(lambda g: make().update(g, make().init(g))[0])
    with jax.set_mesh(mesh), pytest.raises(ValueError, match=rf"{make.__name__}\(\) reads each parameter as one piece"):
        step(grads)


@pytest.mark.usefixtures("x64")
def test_a_window_in_low_rank_is_that_of_compressed_gradients_with_what_was_left_out():
    grads, rank = random_gradients(7), 2
    error, rows, v, expected = jax.tree.map(np.zeros_like, grads[0]), [], 0, []
    start = np.asarray(jax.random.normal(jax.random.key(0), (3, rank), jnp.float64))
    for g in grads:
        error = {k: error[k] + g[k] for k in SHAPES}
        first = np.linalg.qr(error["w"] @ start)[0]
        left = np.linalg.qr(error["w"] @ (error["w"].T @ first))[0]
        rows.append({"w": left @ (left.T @ error["w"]), "b": error["b"]})
        error = {k: error[k] - rows[-1][k] for k in SHAPES}
        v = 0.8 * v + 0.2 * dense(rows, 4, 1e-2)
        expected.append(-0.1 * v)
    tx = precond.mfac(0.1, window=4, damping=1e-2, b1=0.8, rank=rank)
    out, state = run(tx, grads)
    np.testing.assert_allclose(np.stack([flat(u) for u in out]), expected, rtol=1e-9, atol=1e-12)
    stored = optax.tree.get(state, "window")
    assert sum(x.size for x in jax.tree.leaves(stored)) == 4 * (rank * (16 + 3) + 8)


def test_arguments_are_checked_by_name():
    for make, message in [
        (lambda: precond.mfac(-1.0), "learning_rate=-1.0"),
        (lambda: precond.mfac(1.0, window=0), "window=0: must be at least 1"),
        (lambda: precond.mfac(1.0, damping=-1.0), "damping=-1.0"),
        (lambda: precond.mfac(1.0, b1=2.0), "b1=2.0"),
        (lambda: precond.mfac(1.0, density=0), "density=0: must be above 0"),
        (lambda: precond.mfac(1.0, density=0.1, rank=2), "density=0.1 and rank=2"),
        (lambda: precond.mfac(1.0, rank=0), "rank=0: must be at least 1"),
        (lambda: precond.transforms.sparse_rows(2.0), "density=2.0"),
        (lambda: precond.transforms.sparse_rows(block_size=0), "block_size=0"),
        (lambda: precond.mfac(1.0, weight_decay=-1.0), "weight_decay=-1.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(TypeError, match=r"window is an array.*static_args"):
        optax.inject_hyperparams(precond.mfac)(1.0, window=8).init(jnp.ones(3))


def test_windows_of_boxed_parameters_have_an_axis_more_than_the_names_of_these():
    box = nn.Partitioned(jnp.ones((4, 6)), names=("data", None))
    tx = precond.mfac(0.1, window=2)
    state = tx.init({"kernel": box})
    assert nn.get_partition_spec(state)[0].window["kernel"] == jax.sharding.PartitionSpec(None, "data", None)
    updates, state = tx.update({"kernel": box}, state, {"kernel": box})
    assert updates["kernel"].names == box.names
    assert state[0].window["kernel"].names == (None, *box.names)

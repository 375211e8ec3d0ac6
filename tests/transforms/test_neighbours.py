"""Error feedback, radial projection, conjugate gradients, extrapolation, learned step sizes: each by its definition."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from tests.problem import gradients

pytestmark = pytest.mark.usefixtures("x64")

SHAPES = {"w": (6, 5), "e": (2, 3, 4), "b": (7,)}


def params():
    return {k: np.random.default_rng(1).standard_normal(s) for k, s in SHAPES.items()}


def steps(tx, grads, p=None):
    """The updates, as float64 NumPy trees, and the last state."""
    p = jax.tree.map(jnp.asarray, params() if p is None else p)
    state, update, out = tx.init(p), jax.jit(tx.update), []
    for g in grads:
        updates, state = update(jax.tree.map(jnp.asarray, g), state, p)
        p = optax.apply_updates(p, updates)
        out.append(jax.tree.map(np.asarray, updates))
    return out, state


def descend(tx, grad, w, count):
    """The last parameters of so many steps."""

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(grad(w), state, w)
        return (optax.apply_updates(w, updates), state), None

    return jax.jit(lambda c: jax.lax.scan(step, c, length=count))((w, tx.init(w)))[0][0]


def close(actual, expected, rtol=1e-12, atol=1e-13):
    chex.assert_trees_all_close(actual, expected, rtol=rtol, atol=atol)


def flat(tree):
    return np.concatenate([np.ravel(tree[k]) for k in SHAPES])


# Error feedback


def top_k(x, density, size):
    out = np.zeros(x.size)
    for begin in range(0, x.size, size):
        block = np.abs(x.reshape(-1)[begin : begin + size])
        stays = begin + np.argsort(-block, kind="stable")[: int(np.ceil(density * len(block)))]
        out[stays] = x.reshape(-1)[stays]
    return out.reshape(x.shape)


@pytest.mark.parametrize(("density", "size"), [(0.01, 32768), (0.25, 4), (0.5, 7), (1.0, 5), (0.3, 1)])
def test_the_largest_of_each_block_stay(density, size):
    (g,) = gradients(SHAPES, steps=1)
    (out,), _ = steps(precond.transforms.block_top_k(density, block_size=size), [g])
    close(out, {k: top_k(x, density, size) for k, x in g.items()}, rtol=0, atol=0)


def test_of_equal_entries_as_many_stay_as_of_others():
    (out,), _ = steps(precond.transforms.block_top_k(0.5, block_size=4), [{"b": np.ones(8)}], {"b": np.ones(8)})
    np.testing.assert_array_equal(out["b"], [1, 1, 0, 0, 1, 1, 0, 0])


def test_what_is_left_out_is_fed_back():
    grads, error = gradients(SHAPES, steps=12), {k: np.zeros(s) for k, s in SHAPES.items()}
    out, state = steps(precond.transforms.error_feedback(precond.transforms.block_top_k(0.2, block_size=8)), grads)
    for g, c in zip(grads, out, strict=True):
        total = {k: error[k] + g[k] for k in SHAPES}
        expected = {k: top_k(x, 0.2, 8) for k, x in total.items()}
        error = {k: total[k] - expected[k] for k in SHAPES}
        close(c, expected)
    close(state.error, error)
    given = {k: sum(c[k] for c in out) + state.error[k] for k in SHAPES}
    close(given, {k: sum(g[k] for g in grads) for k in SHAPES}, rtol=1e-11)  # nothing is lost


def test_rounding_to_the_gradients_dtype_is_fed_back_too():
    g = jnp.asarray([1.0, 0.3, 0.7], jnp.bfloat16)
    tx = precond.transforms.error_feedback(optax.scale(1 / 3))
    state, given = tx.init(g), np.zeros(3)
    for _ in range(30):
        c, state = tx.update(g, state)
        assert c.dtype == jnp.bfloat16
        given += np.asarray(c, np.float64)
    np.testing.assert_allclose(given + state.error, 30 * np.asarray(g, np.float64), rtol=1e-5)


def test_in_front_of_mfac_it_is_efcp():
    """The window is of compressed gradients, and the newest of them is what is preconditioned."""
    grads, window, damping = gradients(SHAPES, steps=7), 3, 1e-2
    feedback = precond.transforms.error_feedback(precond.transforms.block_top_k(0.3, block_size=16))
    out, _ = steps(optax.chain(feedback, precond.scale_by_mfac(window, damping)), grads)
    rows = np.stack([flat(c) for c in steps(feedback, grads)[0]])
    for t in range(7):
        seen = rows[max(0, t + 1 - window) : t + 1]
        fisher = damping * np.eye(rows.shape[1]) + seen.T @ seen / window
        np.testing.assert_allclose(flat(out[t]), np.linalg.solve(fisher, rows[t]), rtol=1e-9, atol=1e-12)


# Radial projection


def adamp(w, g, u, delta, decay, ratio):
    """The official implementation's `_projection` and weight decay, its channels on the last axis."""
    if w.ndim < 2:
        return u + decay * w
    for columns in (lambda x: x.reshape(-1, x.shape[-1]), lambda x: x.reshape(-1, 1)):
        c, d = columns(w), columns(g)
        cosine = np.abs((c * d).sum(0)) / (np.linalg.norm(c, axis=0) * np.linalg.norm(d, axis=0))
        if cosine.max() < delta / np.sqrt(c.shape[0]):
            unit = c / np.linalg.norm(c, axis=0)
            radial = unit * (unit * columns(u)).sum(0)
            return u - radial.reshape(w.shape) + ratio * decay * w
    return u + decay * w


def without_radial_part(g, w, axes):
    unit = w / np.sqrt((w**2).sum(axes, keepdims=True))
    return g - unit * (unit * g).sum(axes, keepdims=True)


@pytest.mark.parametrize("case", ["by channel", "by layer", "not at all"])
def test_the_radial_part_is_removed_where_the_gradient_has_none(case):
    p, inner = params(), optax.scale_by_adam(0.9, 0.99)
    grads = gradients(SHAPES, steps=3)
    for g in grads:
        for k in ("w", "e"):
            if case == "by channel":
                g[k] = without_radial_part(g[k], p[k], tuple(range(p[k].ndim - 1)))
            elif case == "by layer":
                g[k] = without_radial_part(g[k], p[k], tuple(range(p[k].ndim)))
    tx = precond.contrib.project_radial(inner, delta=0.1, weight_decay=0.3)
    state, other, q = tx.init(p), inner.init(p), jax.tree.map(jnp.asarray, p)
    update, inner_update = jax.jit(tx.update), jax.jit(inner.update)
    for g in grads:
        out, state = update(g, state, q)
        u, other = inner_update(g, other, q)
        u = jax.tree.map(np.asarray, u)
        close(out, {k: adamp(p[k], g[k], u[k], 0.1, 0.3, 0.1) for k in SHAPES})
    changed = {k: not np.allclose(out[k], u[k] + 0.3 * p[k]) for k in SHAPES}
    assert changed == {"w": case != "not at all", "e": case != "not at all", "b": False}


def test_a_scale_invariant_weight_keeps_its_norm_to_first_order():
    rng = np.random.default_rng(0)
    x, y, w = rng.standard_normal((50, 6)), rng.standard_normal((50, 4)), jnp.asarray(rng.standard_normal((6, 4)))

    def grad(w):
        return jax.grad(lambda w: jnp.mean((x @ (w / jnp.linalg.norm(w, axis=0)) - y) ** 2))(w)

    def norms(tx, w):
        def step(carry, _):
            w, state = carry
            updates, state = tx.update(grad(w), state, w)
            return (w - 1e-3 * updates, state), None

        (w, _), _ = jax.lax.scan(step, (w, tx.init(w)), length=100)
        return np.linalg.norm(w, axis=0)

    before = np.linalg.norm(w, axis=0)
    projected = np.abs(norms(precond.contrib.project_radial(optax.scale_by_adam()), w) / before - 1).max()
    assert projected < 0.3 * np.abs(norms(optax.scale_by_adam(), w) / before - 1).max()


def test_the_axis_of_channels_can_be_moved():
    p, (g,) = params(), gradients(SHAPES, steps=1)
    g["w"] = without_radial_part(g["w"], p["w"], 1)
    tx = precond.contrib.project_radial(optax.scale(2.0), channel_axis=0)
    out, _ = tx.update({"w": g["w"]}, tx.init({"w": p["w"]}), {"w": p["w"]})
    np.testing.assert_allclose(out["w"], adamp(p["w"].T, g["w"].T, 2 * g["w"].T, 0.1, 0, 0.1).T, rtol=1e-12)


# Conjugate gradients


def quadratic(n=8, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((n, n))
    return a @ a.T + 0.5 * np.eye(n), rng.standard_normal(n)


@pytest.mark.parametrize("beta", [precond.contrib.polak_ribiere, precond.contrib.fletcher_reeves])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_with_exact_line_searches_a_quadratic_takes_as_many_steps_as_parameters(beta, preconditioned):
    h, b = quadratic()
    p = np.diag(1 / np.diag(h)) if preconditioned else np.eye(8)
    scale = optax.stateless(lambda g, params: jax.tree.map(lambda x: p @ x, g)) if preconditioned else None
    tx, w = precond.contrib.scale_by_nlcg(beta, preconditioner=scale), jnp.zeros(8)
    state, directions = tx.init(w), []
    for _ in range(8):
        g = h @ w - b
        d, state = tx.update(g, state)
        w = w - (g @ d) / (d @ h @ d) * d
        directions.append(np.asarray(d))
    np.testing.assert_allclose(w, np.linalg.solve(h, b), rtol=1e-9)
    d = np.stack(directions)
    conjugate = d @ h @ d.T
    scale = np.sqrt(np.outer(np.diag(conjugate), np.diag(conjugate)))
    assert np.abs(conjugate / scale - np.eye(8)).max() < 1e-8


@pytest.mark.parametrize("beta", [precond.contrib.polak_ribiere, precond.contrib.fletcher_reeves])
def test_the_coefficient_is_that_of_the_whole_tree(beta):
    grads = [jax.tree.map(lambda x: 0.1 * x, g) for g in gradients(SHAPES, steps=6)]
    out, _ = steps(precond.contrib.scale_by_nlcg(beta), grads)
    d, last = 0, None
    for g, actual in zip(map(flat, grads), out, strict=True):
        b = 0
        if last is not None and beta is precond.contrib.polak_ribiere:
            b = max(0, g @ (g - last) / (last @ last))
        elif last is not None:
            b = (g @ g) / (last @ last)
        d, last = g + b * d, g
        np.testing.assert_allclose(flat(actual), d, rtol=1e-12)


# Extrapolation


def test_with_equal_steps_it_is_optimistic_gradient_descent():
    grads, p = gradients(SHAPES, steps=10), params()
    ours, _ = steps(precond.contrib.extrapolated(optax.sgd(0.1), optax.scale(-0.1)), grads, p)
    optaxs, _ = steps(optax.optimistic_gradient_descent(0.1), grads, p)
    close(ours[1:], optaxs[1:])
    # In the first step Optax takes the gradient for its own predecessor; the definition has none.
    close(ours[0], jax.tree.map(lambda u: 2 * u, optaxs[0]))


def test_two_sequences_written_out():
    rng = np.random.default_rng(0)
    h, w = np.diag([1.0, 3.0]), rng.standard_normal(2)
    tx = precond.contrib.extrapolated(optax.adamw(0.05, weight_decay=0.1), optax.scale(-0.2))
    adam, y, iterate = optax.adamw(0.05, weight_decay=0.1), jnp.asarray(w), jnp.asarray(w)
    state, inner, last = tx.init(y), adam.init(iterate), np.zeros(2)
    for _ in range(12):
        g = h @ (iterate - 0.2 * last)  # the definition: a gradient at the extrapolated point
        np.testing.assert_allclose(h @ y, g, rtol=1e-11, atol=1e-13)
        updates, state = tx.update(h @ y, state, y)
        y = optax.apply_updates(y, updates)
        step, inner = adam.update(g, inner, iterate)
        iterate, last = optax.apply_updates(iterate, step), g
        np.testing.assert_allclose(precond.large_batches.eval_params(state, y), iterate, rtol=1e-11, atol=1e-13)


def test_a_bilinear_game_is_solved_where_gradient_descent_diverges():
    def end(tx):
        return np.linalg.norm(descend(tx, lambda w: jnp.stack([w[1], -w[0]]), jnp.ones(2), 300))

    assert end(precond.contrib.extrapolated(optax.sgd(0.3), optax.scale(-0.3))) < 1e-6
    assert end(optax.sgd(0.3)) > 1e3


def test_an_extrapolation_of_neumann_adds_both_displacements():
    g, p = {"w": jnp.asarray([1.0, 2.0])}, {"w": jnp.asarray([3.0, 4.0])}
    neumann = precond.scale_by_neumann(0.1, momentum=0.5, regularizer=None, warmup=0)
    tx = precond.contrib.extrapolated(neumann, optax.scale(-0.2))
    updates, state = tx.update(g, tx.init(p), p)
    back = precond.large_batches.eval_params(state, optax.apply_updates(p, updates))
    np.testing.assert_allclose(back["w"], p["w"] - 0.1 * g["w"], rtol=1e-12)


# Exponentiated gradients


def agreement(alignment, x, y):
    if alignment is precond.contrib.inner_product:
        return x @ y
    lengths = np.linalg.norm(x) * np.linalg.norm(y)
    return x @ y / lengths if lengths else 0.0


@pytest.mark.parametrize("alignment", [precond.contrib.cosine, precond.contrib.inner_product])
@pytest.mark.parametrize("gain_rate", [None, 0.05])
def test_the_learned_step_size_is_its_formula(alignment, gain_rate):
    grads = [jax.tree.map(lambda x: 0.05 * x, g) for g in gradients(SHAPES, steps=15)]
    tx = precond.contrib.exponentiated(optax.trace(0.9), 0.1, gain_rate=gain_rate, decay=0.8, alignment=alignment)
    out, state = steps(tx, grads)
    scale, h, m, gains = 1.0, 0 * flat(grads[0]), 0 * flat(grads[0]), np.ones(flat(grads[0]).size)
    for g, actual in zip(map(flat, grads), out, strict=True):
        scale *= np.exp(np.clip(0.1 * agreement(alignment, h, g), -1, 1))
        if gain_rate is not None:
            each = m * g if alignment is precond.contrib.inner_product else np.sign(m * g)
            gains *= np.exp(np.clip(gain_rate * each, -1, 1))
            m = 0.8 * m + 0.2 * g
        h = 0.9 * h + gains * g
        np.testing.assert_allclose(flat(actual), scale * h, rtol=1e-11)
    np.testing.assert_allclose(state.scale, scale, rtol=1e-12)
    assert abs(scale - 1) > 1e-3


@pytest.mark.parametrize("start", [1e-3, 1.0])
def test_a_step_size_that_is_off_is_found(start):
    """Steps of a thousandth of the right size, or above the stable one, come to a quadratic's minimum."""
    h, b = np.diag([1.0, 2.0, 3.0]), np.ones(3)
    tx = optax.chain(precond.contrib.exponentiated(optax.identity(), 0.3), optax.scale(-start))
    w = descend(tx, lambda w: h @ w - b, jnp.zeros(3), 150)
    assert np.abs(w - np.linalg.solve(h, b)).max() < 1e-3
    fixed = (1 - start * np.diag(h)) ** 150
    assert np.abs(fixed).max() > 0.5


@pytest.mark.parametrize("alignment", [precond.contrib.cosine, precond.contrib.inner_product])
@pytest.mark.parametrize("size", [0.0, 1e-170, 1e100])
def test_gradients_of_any_size_keep_the_scale_finite(alignment, size):
    (g,) = gradients(SHAPES, steps=1)
    tx = precond.contrib.exponentiated(optax.identity(), 0.1, gain_rate=0.1, alignment=alignment)
    _, state = steps(tx, [jax.tree.map(lambda x: size * x, g)] * 3)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
    assert state.scale > 0


# What they share

EACH = {
    "error_feedback": lambda: precond.transforms.error_feedback(precond.transforms.block_top_k(0.5, block_size=4)),
    "efcp": lambda: precond.mfac(0.1, window=2, density=0.5),
    "project_radial": lambda: precond.contrib.project_radial(optax.scale_by_adam(), weight_decay=0.1),
    "nlcg": lambda: precond.contrib.scale_by_nlcg(preconditioner=optax.scale_by_rms()),
    "nlcg_plain": lambda: precond.contrib.scale_by_nlcg(precond.contrib.fletcher_reeves),
    "extrapolated": lambda: precond.contrib.extrapolated(optax.adam(0.1), optax.scale(-0.1)),
    "exponentiated": lambda: precond.contrib.exponentiated(optax.scale_by_adam(), gain_rate=0.1),
    "finite_steps": lambda: precond.transforms.finite_steps(optax.scale_by_adam()),
}
TREE = {"w": (4, 3), "scalar": (), "empty": (0, 3), "c": (2, 3, 3)}
each = pytest.mark.parametrize("make", EACH.values(), ids=EACH)


def tree(dtype, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {k: jnp.asarray(rng.standard_normal(s), dtype) for k, s in TREE.items()}
    return arrays | {"hole": None, "masked": optax.MaskedNode()}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex64", "float64"])
@each
def test_types_do_not_change(make, dtype):
    tx, p = make(), tree(dtype)
    before = jax.eval_shape(tx.init, p)
    updates, after = jax.eval_shape(lambda *args: tx.update(*args, nobody_knows_this=1), p, before, p)
    assert jax.tree.structure(updates) == jax.tree.structure(p)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(updates)] == [(x.shape, x.dtype) for x in jax.tree.leaves(p)]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), before)


@pytest.mark.parametrize("dtype", [pytest.param("bfloat16", marks=pytest.mark.slow), "complex64"])
@each
def test_a_scan_stays_finite_and_moves_every_leaf(make, dtype):
    tx, p, grads = make(), tree(dtype), [tree(dtype, seed) for seed in range(1, 4)]

    def step(state, g):
        updates, state = tx.update(g, state, p)
        return state, updates

    state, updates = jax.jit(lambda s, g: jax.lax.scan(step, s, g))(
        tx.init(p), jax.tree.map(lambda *x: jnp.stack(x), *grads)
    )
    assert all(np.isfinite(np.asarray(x, np.complex128)).all() for x in jax.tree.leaves((state, updates)))
    assert all(np.any(np.asarray(x[-1], np.complex128)) for x in jax.tree.leaves(updates) if x.size)


@each
def test_zero_gradients_and_an_empty_tree_are_survived(make):
    tx, p = make(), tree("float32")
    zero = jax.tree.map(jnp.zeros_like, p)
    state = tx.init(p)
    update = jax.jit(tx.update)
    for g in (zero, zero, tree("float32", 1)):
        updates, state = update(g, state, p)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((updates, state)))
    state = tx.init({})
    updates, _ = jax.jit(tx.update)({}, state, {})
    assert updates == {}


@each
def test_map_params_finds_only_what_is_like_parameters(make):
    tx, p = make(), {"w": jnp.ones((4, 3))}
    state = tx.init(p)
    same = optax.tree.map_params(tx, lambda x: x, state)
    assert jax.tree.structure(same) == jax.tree.structure(state)


def test_arguments_are_checked_by_name():
    identity = optax.identity()
    for make, message in [
        (lambda: precond.transforms.block_top_k(0), "density=0: must be above 0"),
        (lambda: precond.transforms.block_top_k(1.5), "density=1.5"),
        (lambda: precond.transforms.block_top_k(block_size=0), "block_size=0"),
        (lambda: precond.contrib.project_radial(identity, delta=-1), "delta=-1"),
        (lambda: precond.contrib.project_radial(identity, channel_axis=-2), "channel_axis=-2"),
        (lambda: precond.contrib.exponentiated(identity, -1.0), "rate=-1.0"),
        (lambda: precond.contrib.exponentiated(identity, gain_rate=-1.0), "gain_rate=-1.0"),
        (lambda: precond.contrib.exponentiated(identity, decay=2.0), "decay=2.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
    tx = precond.contrib.project_radial(identity)
    w = jnp.ones((2, 2))
    with pytest.raises(ValueError, match=r"channel_axis=2: a parameter of shape \(2, 2\)"):
        precond.contrib.project_radial(identity, channel_axis=2).update(w, optax.EmptyState(), w)
    with pytest.raises(ValueError, match="params"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)))


# One second moment


def test_a_momentum_is_divided_by_the_root_of_the_mean_square_of_the_gradients():
    grads = gradients(SHAPES, steps=4)
    tx = precond.with_momentum(optax.ema(0.9), precond.transforms.scale_by_mean_square(0.8))
    found, _ = steps(tx, grads)
    for k in SHAPES:
        v = m = 0.0
        for t, g in enumerate(grads, start=1):
            v, m = 0.8 * v + 0.2 * np.mean(g[k] ** 2), 0.9 * m + 0.1 * g[k]
            expected = m / (1 - 0.9**t) / np.sqrt(v / (1 - 0.8**t))
            np.testing.assert_allclose(found[t - 1][k], expected, rtol=1e-12)


def test_gradients_of_zeros_stay_zeros():
    tx, zeros = precond.transforms.scale_by_mean_square(), {"w": jnp.zeros((2, 3))}
    assert not np.any(tx.update(zeros, tx.init(zeros))[0]["w"])

"""K-FAC's transform against its definition: dense Kronecker products in float64, in numpy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from precond.blocks import Layer
from precond.layers import LayerFactors
from tests import reference

pytestmark = pytest.mark.usefixtures("x64")

LAYERS = {
    "dense": Layer("dense/kernel", "dense/bias", 0, (3, 4), (), (0,), (1,)),
    "stack": Layer("stack/kernel", "stack/bias", 1, (3, 4), (), (0,), (1,)),  # two scanned ones, like dense
    "heads": Layer("heads/kernel", None, 0, (3, 2, 2), (), (0,), (1, 2)),
    "grouped": Layer("grouped/kernel", "grouped/bias", 0, (2, 1, 2, 3), (2,), (0, 1), (3,)),
    "norm": Layer("norm/scale", "norm/bias", 0, (5,), (0,), (), ()),
    "embed": Layer("embed/embedding", None, 0, (7, 3), (), (0,), (1,), diagonal=True),
}
SHAPES = {
    "dense": {"kernel": (3, 4), "bias": (4,)},
    "stack": {"kernel": (2, 3, 4), "bias": (2, 4)},
    "heads": {"kernel": (3, 2, 2)},
    "grouped": {"kernel": (2, 1, 6), "bias": (6,)},
    "norm": {"scale": (5,), "bias": (5,)},
    "embed": {"embedding": (7, 3)},
}
SIZES = {"dense": (1, 4, 4), "stack": (2, 4, 4), "heads": (1, 3, 4), "grouped": (2, 3, 3), "norm": (5, 2, 1)}


def tree(seed, dtype=np.float64, scale=1.0):
    rng = np.random.default_rng(seed)
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    return jax.tree.map(lambda s: jnp.asarray(scale * rng.standard_normal(s), dtype), SHAPES, is_leaf=is_shape)


def factors_of(seed):
    rng = np.random.default_rng(100 + seed)

    def spd(n, d, scale):
        x = rng.standard_normal((n, d, d + 2))
        return jnp.asarray(scale * x @ x.transpose(0, 2, 1) / d)

    out = {name: LayerFactors(spd(n, i, 2.0), spd(n, o, 0.1)) for name, (n, i, o) in SIZES.items()}
    out["norm"] = LayerFactors(out["norm"].inputs, None)
    out["embed"] = LayerFactors(jnp.asarray(rng.uniform(0, 1, (1, 7))), spd(1, 3, 0.1))
    return out


def some(x):
    """Two of the layers, for what is the same for all."""
    return {name: x[name] for name in ("dense", "embed")}


def matrix(name, tree):
    """A layer's parameters as `[L, i, o]`, spelled out for each."""
    p = {k: np.asarray(v) for k, v in tree[name].items()}
    if name == "dense":
        return np.concatenate([p["kernel"], p["bias"][None]])[None]
    if name == "stack":
        return np.concatenate([p["kernel"], p["bias"][:, None]], axis=1)
    if name == "heads":
        return p["kernel"].reshape(1, 3, 4)
    if name == "grouped":
        halves = [np.concatenate([p["kernel"][:, 0, s], p["bias"][None, s]]) for s in (slice(0, 3), slice(3, 6))]
        return np.stack(halves)
    if name == "norm":
        return np.stack([p["scale"], p["bias"]], axis=1)[:, :, None]
    return p["embedding"][None]


def solve(gradient, a, g, damping, *, exact=False):
    """One block, by a dense solve: factored Tikhonov damping, or that of the whole matrix."""
    if g is None:
        return np.linalg.solve(a + damping * np.eye(len(a)), gradient)
    a = np.diag(a) if a.ndim == 1 else a
    if exact:
        full = np.kron(a, g) + damping * np.eye(gradient.size)
    else:
        pi = np.sqrt(np.trace(a) / len(a) / (np.trace(g) / len(g)))
        root = np.sqrt(damping)
        full = np.kron(a + pi * root * np.eye(len(a)), g + root / pi * np.eye(len(g)))
    return np.linalg.solve(full, gradient.ravel()).reshape(gradient.shape)


def assert_matrices(updates, expected, rtol=1e-9):
    for name, blocks in expected.items():
        actual = matrix(name, updates)
        np.testing.assert_allclose(actual, blocks, rtol=rtol, atol=rtol * np.abs(blocks).max())


def direction(gradients, factors, damping, **kwargs):
    """The definition: every layer of a tree."""
    out = {}
    for name in gradients:
        a, g, *_ = factors[name]
        blocks = matrix(name, gradients)
        gs = [None] * len(blocks) if g is None else np.asarray(g)
        out[name] = np.stack(
            [solve(*block, damping, **kwargs) for block in zip(blocks, np.asarray(a), gs, strict=True)]
        )
    return out


def averaged(seeds, decay):
    """Zero-debiased moving averages of the factors."""
    total, weight = jax.tree.map(jnp.zeros_like, factors_of(0)), 0.0
    for seed in seeds:
        total = jax.tree.map(lambda t, f: decay * t + (1 - decay) * f, total, factors_of(seed))
        weight = decay * weight + (1 - decay)
    return jax.tree.map(lambda t: t / weight, total)


def test_the_direction_is_that_of_the_damped_kronecker_products():
    tx = precond.scale_by_kfac(LAYERS, damping=0.001, refresh=1)
    grads = tree(1)
    updates, _ = jax.jit(tx.update)(grads, tx.init(grads), factors=factors_of(0))
    assert_matrices(updates, direction(grads, factors_of(0), 0.001))


@pytest.mark.slow
def test_the_eigen_inverse_damps_the_whole_matrix():
    tx = precond.scale_by_kfac(LAYERS, root=precond.eigen_inverse(0.01), refresh=1)
    grads = tree(1)
    updates, _ = jax.jit(tx.update)(grads, tx.init(grads), factors=factors_of(0))
    assert_matrices(updates, direction(grads, factors_of(0), 0.01, exact=True))


def test_a_power_of_one_half_is_the_inverse_square_root_of_each_factor():
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.standard_normal((4, 3)))}
    capture = precond.layers.explicit({"": precond.layers.dense(bias=False)}, params)
    a, g = (x @ x.T for x in (rng.standard_normal((4, 9)), rng.standard_normal((3, 9))))
    root = precond.inverse_root(power=0.5, damping=precond.relative(0.0))
    tx = precond.scale_by_kfac(capture.layers, root=root)
    factors = {"": precond.layers.LayerFactors(jnp.asarray(a)[None], jnp.asarray(g)[None])}
    updates, _ = jax.jit(tx.update)(params, tx.init(params), factors=factors)
    expected = reference.power(a, -0.5) @ params["kernel"] @ reference.power(g, -0.5)
    np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-9)


def test_averages_are_free_of_bias_and_inverses_stay_between_refreshes():
    tx = precond.scale_by_kfac(some(LAYERS), damping=0.01, decay=0.8, refresh=3)
    state, update = tx.init(some(tree(0))), jax.jit(tx.update)
    for step in range(5):
        grads = some(tree(step))
        updates, state = update(grads, state, factors=factors_of(step))
        seen = averaged(range(step // 3 * 3 + 1), 0.8)
        assert_matrices(updates, direction(grads, seen, 0.01))
    # A step without factors leaves the averages as they are; that it is no refresh either is the engine's affair.
    _, after = jax.jit(tx.update)(grads, state, factors=None)
    old, new = (s.stacks.stacks.statistics for s in (state, after))
    assert all(count == 1 for count in jax.tree.leaves(new[0].unseen))
    old, new = ((averages._replace(unseen=()), scales) for averages, scales in (old, new))
    chex.assert_trees_all_equal(new, old)


@pytest.mark.parametrize("bound", [1e-4, pytest.param(1e3, marks=pytest.mark.slow)])
def test_the_alias_is_its_equation(bound):
    lr, b1, damping, decay = 0.5, 0.8, 0.01, 0.9
    tx = precond.kfac(lr, some(LAYERS), b1=b1, damping=damping, decay=decay, bound=bound, weight_decay=0.1, refresh=1)
    params, update = some(tree(50)), jax.jit(tx.update)
    state, velocity = tx.init(params), optax.tree.zeros_like(params)
    for step in range(3):
        grads = some(tree(step))
        velocity = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, velocity, grads)
        momentum = optax.tree.scale(1 / (1 - b1 ** (step + 1)), velocity)
        v = direction(momentum, averaged(range(step + 1), decay), damping)
        product = sum(np.vdot(v[name], matrix(name, momentum)) for name in v)
        eta = min(lr, np.sqrt(bound / product))
        assert (eta < lr) == (bound < 1)
        updates, state = update(grads, state, params, factors=factors_of(step))
        expected = {name: -eta * v[name] - lr * 0.1 * matrix(name, params) for name in v}
        assert_matrices(updates, expected)
        params = optax.apply_updates(params, updates)


def test_the_papers_own_order_burn_in_bound_and_average():
    """Ba et al.: statistics alone at first, momentum behind, c_k = c_0 zeta^k, evaluation at Polyak's average."""
    lr, mu, damping, decay, burn, half = 0.5, 0.9, 0.01, 0.8, 2, 2
    bound = lambda count: 1e-3 * 0.5 ** (count // half).astype(jnp.float64)  # noqa: E731  (Optax's rounds to float32)
    tx = optax.chain(
        precond.scale_by_kfac(
            some(LAYERS),
            damping=damping,
            decay=decay,
            refresh=precond.every(2, start=burn + 1, warmup=burn),
            around=lambda d: optax.chain(
                precond.transforms.clip_by_kl(d, lr, bound), precond.per_block(optax.trace(mu))
            ),
        ),
        optax.scale(-lr),
    )
    params, update = some(tree(50)), jax.jit(tx.update)
    state, average = tx.init(params), params
    u = {name: np.zeros_like(matrix(name, params)) for name in params}
    iterates = [params]
    for step in range(6):
        grads = some(tree(step))
        updates, state = update(grads, state, params, factors=factors_of(step))
        if step >= burn:
            v = direction(grads, averaged(range(step - (step - burn) % 2 + 1), decay), damping)
            product = sum(np.vdot(v[name], matrix(name, grads)) for name in v)
            c = 1e-3 * 0.5 ** (step // half)
            assert c < lr**2 * product
            u = {name: mu * u[name] + np.sqrt(c / product) / lr * v[name] for name in v}
        assert_matrices(updates, {name: -lr * x for name, x in u.items()})
        params = optax.apply_updates(params, updates)
        average = optax.incremental_update(params, average, step_size=0.1)
        iterates.append(params)
    weights = [0.9**6] + [0.1 * 0.9 ** (5 - t) for t in range(6)]
    expected = jax.tree.map(lambda *x: sum(w * y for w, y in zip(weights, x, strict=True)), *iterates)
    chex.assert_trees_all_close(average, expected, rtol=1e-12)


def test_balanced_factors_with_one_ridge_are_tikhonovs_for_three_factors_too():
    rng, orders = np.random.default_rng(0), 3
    sizes, scales, damping = (2, 3, 4)[:orders], (1e-3, 5.0, 40.0), 0.3
    factors = [c * (x @ x.T) for c, x in zip(scales, (rng.standard_normal((d, d)) for d in sizes), strict=False)]
    means = [np.trace(f) / len(f) for f in factors]
    middle = np.prod(means) ** (1 / orders)
    damped = [f + m / middle * damping ** (1 / orders) * np.eye(len(f)) for f, m in zip(factors, means, strict=True)]
    block = rng.standard_normal(sizes)
    full = np.ones((1, 1))
    for f in damped:
        full = np.kron(full, f)
    expected = np.linalg.solve(full, block.ravel()).reshape(sizes)
    balanced = precond.balance().update({"b": tuple(jnp.asarray(f)[None] for f in factors)}, optax.EmptyState())[0]["b"]
    root = precond.inverse(damping)
    state = root.init(jnp.asarray(block)[None], balanced)
    refresh = jax.jit(lambda f, d: root.refresh(f, d, orders, True))
    derived = tuple(refresh(f, d) for f, d in zip(balanced, state.derived, strict=True))
    actual, _ = root.apply(jnp.asarray(block)[None], None, state._replace(derived=derived))
    np.testing.assert_allclose(actual[0], expected, rtol=1e-11)


def test_a_zero_factor_leaves_its_layer_alone():
    """A layer that nothing reaches has G = 0, and no pi."""
    factors = {"dense": LayerFactors(factors_of(0)["dense"].inputs, jnp.zeros((1, 4, 4)))}
    params = {"dense": tree(0)["dense"]}
    tx = precond.scale_by_kfac({"dense": LAYERS["dense"]}, refresh=1)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, state = jax.jit(tx.update)(zero, tx.init(params), factors=factors)
    jax.tree.map(lambda u: np.testing.assert_array_equal(u, 0), updates)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.slow
def test_factors_that_are_not_finite_are_left_out():
    tx = precond.scale_by_kfac(some(LAYERS), damping=0.01, decay=0.8, refresh=1)
    grads, update = some(tree(0)), jax.jit(tx.update)
    _, state = update(grads, tx.init(grads), factors=factors_of(0))
    bad = factors_of(1)
    bad["dense"] = bad["dense"]._replace(outputs=bad["dense"].outputs.at[0, 0, 0].set(jnp.nan))
    updates, _ = update(grads, state, factors=bad)
    mixed = averaged(range(2), 0.8) | {"dense": factors_of(0)["dense"]}
    assert_matrices(updates, direction(grads, mixed, 0.01))


def test_a_gradient_that_is_not_finite_skips_its_layer_alone():
    tx = precond.kfac(0.1, some(LAYERS), refresh=1)
    params, grads = some(tree(9)), some(tree(0))
    grads["embed"]["embedding"] = grads["embed"]["embedding"].at[0, 0].set(jnp.inf)
    updates, state = jax.jit(tx.update)(grads, tx.init(params), params, factors=factors_of(0))
    np.testing.assert_array_equal(updates["embed"]["embedding"], 0)
    assert np.abs(updates["dense"]["kernel"]).min() > 0
    assert precond.metrics(state)["blocks/skipped"] == 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float32, marks=pytest.mark.slow)])
def test_updates_have_the_gradients_dtype_and_the_state_its_own(dtype):
    tx, params = precond.kfac(0.1, LAYERS), tree(0, dtype)
    factors = jax.tree.map(lambda f: f.astype(jnp.float32), factors_of(0))
    state = jax.eval_shape(tx.init, params)
    updates, after = jax.eval_shape(lambda g, s, p: tx.update(g, s, p, factors=factors), params, state, params)
    assert jax.tree.map(lambda u: u.dtype, updates) == jax.tree.map(lambda p: p.dtype, params)
    types = lambda t: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), t)  # noqa: E731
    assert types(after) == types(jax.eval_shape(tx.init, params))


def test_the_rest_of_a_tree_is_trained_by_otherwise_and_a_bias_may_be_masked_away():
    params = {"dense": tree(0)["dense"], "table": jnp.ones((2, 3))}
    layers, factors = {"dense": LAYERS["dense"]}, {"dense": factors_of(0)["dense"]}
    tx = precond.scale_by_kfac(layers, damping=0.01, refresh=1, otherwise=optax.scale(3.0))
    updates, _ = jax.jit(tx.update)(params, tx.init(params), factors=factors)
    np.testing.assert_allclose(updates["table"], 3.0)

    masked = optax.masked(tx, {"dense": {"kernel": True, "bias": False}, "table": False})
    updates, _ = jax.jit(masked.update)(params, masked.init(params), factors=factors)
    a, g = np.asarray(factors["dense"].inputs)[0, :-1, :-1], np.asarray(factors["dense"].outputs)[0]
    np.testing.assert_allclose(updates["dense"]["kernel"], solve(np.asarray(params["dense"]["kernel"]), a, g, 0.01))
    np.testing.assert_array_equal(updates["dense"]["bias"], params["dense"]["bias"])


@pytest.mark.slow
def test_a_partition_gives_each_group_its_layers():
    params, factors = tree(0), factors_of(0)
    labels = {name: jax.tree.map(lambda _: "adam" if name == "embed" else "kfac", params[name]) for name in params}  # noqa: B023
    tx = optax.partition(
        {"kfac": precond.scale_by_kfac(LAYERS, damping=0.01, refresh=1), "adam": optax.scale(2.0)}, labels
    )
    updates, _ = jax.jit(tx.update)(params, tx.init(params), factors=factors)
    expected = direction(params, factors, 0.01) | {"embed": 2 * matrix("embed", params)}
    assert_matrices(updates, expected)


@pytest.mark.slow
def test_a_scan_over_steps_under_injected_hyperparameters_equals_a_loop():
    tx = optax.inject_hyperparams(precond.kfac, "refresh")(0.1, some(LAYERS), damping=0.01, refresh=2)
    params = some(tree(9))
    grads, factors = [some(tree(i)) for i in range(4)], [some(factors_of(i)) for i in range(4)]

    def step(carry, new):
        params, state = carry
        updates, state = tx.update(new[0], state, params, factors=new[1])
        return (optax.apply_updates(params, updates), state), None

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *zip(grads, factors, strict=True))
    (scanned, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, stacked))((params, tx.init(params)))
    carry, jitted = (params, tx.init(params)), jax.jit(step)
    for new in zip(grads, factors, strict=True):
        carry, _ = jitted(carry, new)
    chex.assert_trees_all_close(scanned, carry[0], rtol=1e-10)
    assert carry[1].hyperparams["damping"] == 0.01


def test_map_params_and_shapes():
    tx, params = precond.kfac(0.1, LAYERS), tree(0)
    state = tx.init(params)
    mapped = optax.tree.map_params(tx, lambda v: v, state)
    chex.assert_trees_all_equal(mapped, state)
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    assert jax.tree.map(jnp.shape, tx.init(shapes)) == jax.tree.map(jnp.shape, state)


def test_errors_say_what_to_do():
    tx, params = precond.scale_by_kfac(LAYERS), tree(0)
    state = tx.init(params)
    with pytest.raises(TypeError, match="factors="):
        tx.update(params, state)
    with pytest.raises(ValueError, match=r"not \{'params'"):
        tx.init({"params": params})
    with pytest.raises(ValueError, match="of another capture"):
        tx.update(params, state, factors={"dense": factors_of(0)["dense"]})
    with pytest.raises(ValueError, match="Mask both"):
        tx.init(params | {"dense": {"bias": params["dense"]["bias"]}})
    with pytest.raises(ValueError, match="damping=-1"):
        precond.scale_by_kfac(LAYERS, damping=-1)


def test_the_step_is_bounded_in_the_predictions():
    """A linear softmax model: the divergence that is bounded is the one that happens."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((64, 5)))
    params = {"kernel": jnp.asarray(rng.standard_normal((5, 3))) / 2}
    y = jnp.asarray(rng.integers(0, 3, 64))
    capture = precond.layers.explicit({"": precond.layers.dense(bias=False)}, params)
    f = precond.layers.value_grad_factors(
        lambda params, x: capture.apply("", params, x @ params["kernel"], x),
        lambda logits, x: -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1)),
        capture,
        fisher=precond.layers.exact(precond.layers.categorical()),
    )
    for bound in (1e-3, 1e-5):
        tx = precond.kfac(10.0, capture.layers, bound=bound, damping=1e-6, refresh=1)
        _, grads, factors = jax.jit(f)(params, x)
        updates, _ = jax.jit(tx.update)(grads, tx.init(params), params, factors=factors)
        before, after = (jax.nn.log_softmax(x @ w) for w in (params["kernel"], params["kernel"] + updates["kernel"]))
        divergence = jnp.mean(jnp.sum(jnp.exp(before) * (before - after), axis=1))
        assert 0.5 < divergence / (bound / 2) < 2  # the product of means is not the mean of products

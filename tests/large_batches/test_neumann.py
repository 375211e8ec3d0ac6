"""The Neumann optimizer against its paper, written out in NumPy, and against what it is: Nesterov's momentum."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import precond
from tests.problem import gradients, trajectory

pytestmark = pytest.mark.usefixtures("x64")

SHAPES = {"w": (4, 3), "b": (3,)}
ETA = 0.03


def start():
    rng = np.random.default_rng(1)
    return {k: rng.standard_normal(s) for k, s in SHAPES.items()}


def flat(tree):
    return np.concatenate([np.ravel(tree[k]) for k in SHAPES])


def paths(tx, grads, params=None):
    """The flattened parameters of the loop, and those to evaluate, after every step."""
    params = jax.tree.map(jnp.asarray, start() if params is None else params)
    state, displaced, iterates = tx.init(params), [], []
    update = jax.jit(tx.update)
    for g in grads:
        updates, state = update(jax.tree.map(jnp.asarray, g), state, params)
        params = optax.apply_updates(params, updates)
        displaced.append(flat(params))
        iterates.append(flat(precond.large_batches.eval_params(state, params)))
    return np.stack(displaced), np.stack(iterates), state


def algorithm_2(w, grads, *, eta, mu, alpha, beta, gamma, eps, warmup, resets):
    """The paper's lines 4 to 13 on one vector, with a gradient a step; `resets` is the set of t with a reset."""
    v, m, out = w, 0 * w, []
    for step, g in enumerate(grads, start=1):
        if step <= warmup:
            w = v = w - eta(step - 1) * g
            out.append((w, w))
            continue
        t, rate = step - warmup, eta(step - 1)
        r = np.linalg.norm(w - v)
        if t in resets:
            d, m = g, -rate * g
        else:
            u = (w - v) / max(r, eps)
            d = g + (alpha * r**2 - beta / max(r, eps) ** 2) * u
            m = mu(t) * m - rate * d
        w = w + mu(t) * m - rate * d
        v = w + gamma * (v - w)
        out.append((w, w - mu(t) * m))
    return map(np.stack, zip(*out, strict=True))


def paper_mu(t):
    return np.clip(1 - 1 / (1 + t), 0.5, 0.9)


def test_every_step_is_the_papers():
    grads = gradients(SHAPES, steps=40)
    tx = precond.scale_by_neumann(
        lambda count: ETA / (1 + 0.1 * count),
        regularizer=precond.large_batches.convexify(0.3, 0.02),
        warmup=3,
        resets=4,
    )
    displaced, iterates, state = paths(tx, grads)
    expected, evaluated = algorithm_2(
        flat(start()),
        [flat(g) for g in grads],
        eta=lambda count: ETA / (1 + 0.1 * count),
        mu=paper_mu,
        alpha=0.3,
        beta=0.02 * 2,  # two tensors
        gamma=0.99,
        eps=1e-3,
        warmup=3,
        resets={1, 1 + 4, 1 + 4 + 8, 1 + 4 + 8 + 16},
    )
    np.testing.assert_allclose(displaced, expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(iterates, evaluated, rtol=1e-12, atol=1e-13)
    assert state.resets == 4


@pytest.mark.parametrize("mu", [0.0, 0.5, 0.9])
def test_without_its_regularizer_it_is_nesterovs_momentum(mu):
    grads = gradients(SHAPES, steps=30)
    tx = precond.scale_by_neumann(ETA, momentum=mu, regularizer=None, warmup=0, resets=None)
    displaced, iterates, _ = paths(tx, grads)
    nesterov = trajectory(optax.sgd(ETA, mu, nesterov=True), start(), grads)
    nesterov = np.stack([flat({k: p[t] for k, p in nesterov.items()}) for t in range(30)])
    size = np.abs(nesterov).max()
    assert np.abs(displaced - nesterov).max() < 1e-14 * size
    # What is evaluated is Nesterov's other sequence: y = x + mu (x - x_old) of his scheme is what the loop holds.
    x = iterates
    np.testing.assert_allclose(displaced[1:], x[1:] + mu * (x[1:] - x[:-1]), atol=1e-13 * size)
    expected = np.concatenate([flat(start())[None], displaced[:-1]]) - ETA * np.stack([flat(g) for g in grads])
    np.testing.assert_allclose(x, expected, atol=1e-13 * size)


def test_a_reset_sets_nesterovs_trace_to_zero():
    grads = gradients(SHAPES, steps=12)
    tx = precond.scale_by_neumann(ETA, momentum=0.8, regularizer=None, warmup=0, resets=lambda i: 5)
    displaced, _, _ = paths(tx, grads)
    nesterov, params = optax.sgd(ETA, 0.8, nesterov=True), jax.tree.map(jnp.asarray, start())
    for t, g in enumerate(grads):
        if t % 5 == 0:
            state = nesterov.init(params)
        updates, state = nesterov.update(g, state)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(displaced[t], flat(params), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    ("resets", "expected"),
    [(3, [1, 4, 10, 22]), (lambda i: 3 * (i + 1), [1, 4, 10, 19]), (lambda i: 8, [1, 9, 17, 25]), (None, [1])],
    ids=["doubling", "linear", "constant", "never"],
)
def test_when_the_momentum_is_reset(resets, expected):
    tx, g = precond.scale_by_neumann(ETA, regularizer=None, warmup=2, resets=resets), jnp.ones(())
    state, seen = tx.init(g), []
    for t in range(-1, 27):
        before = state.resets
        _, state = tx.update(g, state)
        if state.resets > before:
            seen.append(t)
            assert state.displacement.direction == -ETA  # m = -eta g, nothing of what was
    assert seen == expected


def test_the_momentum_grows_as_in_table_1():
    literal = [float(precond.large_batches.growing_momentum()(t - 1)) for t in range(1, 30)]
    np.testing.assert_allclose(literal, [paper_mu(t) for t in range(1, 30)], rtol=1e-15)
    assert literal[0] == 0.5
    assert literal[8] == 0.9 > literal[7]
    in_epochs = precond.large_batches.growing_momentum(epoch=7)
    np.testing.assert_allclose([float(in_epochs(7 * t - 1)) for t in range(1, 30)], literal, rtol=1e-15)


def test_the_momentums_clock_may_restart():
    tx, g = precond.scale_by_neumann(ETA, regularizer=None, warmup=1, resets=4, restart_momentum=True), jnp.ones(())
    state, seen = tx.init(g), []
    for _ in range(8):
        _, state = tx.update(g, state)
        seen.append(float(state.displacement.scale))
    np.testing.assert_allclose(seen, [0, *map(paper_mu, [1, 2, 3, 4, 1, 2, 3])], rtol=1e-15)


def penalty(offset, alpha, beta):
    r = jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(offset)))
    return alpha / 3 * r**3 + beta / r


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_the_regularizer_is_the_gradient_of_its_penalty(scale):
    params = jax.tree.map(lambda x: scale * jnp.asarray(x), start())
    average = jax.tree.map(lambda x: x * 0.3 + 0.1, params)

    def differentiated(alpha, beta):
        return jax.grad(lambda w: penalty(optax.tree.sub(w, average), alpha, beta))(params)

    def assert_equal(actual, expected):
        chex.assert_trees_all_close(actual, expected, rtol=1e-12)

    assert_equal(precond.large_batches.convexify(0.7, 0.2)(params, average), differentiated(0.7, 0.2 * 2))
    assert_equal(
        precond.large_batches.convexify(None, 0.2, variables=optax.tree.size)(params, average),
        differentiated(0, 0.2 * 15),
    )
    alone = {k: jax.grad(lambda w, k=k: penalty(w - average[k], 0.7, 0.2))(w) for k, w in params.items()}
    assert_equal(precond.large_batches.convexify(0.7, 0.2, by_tensor=True)(params, average), alone)


@pytest.mark.parametrize("offset", [0.0, 1e-300, 1e-12, 1e-4])
def test_close_to_the_average_the_push_is_finite_and_falls_to_zero(offset):
    push = precond.large_batches.convexify(repulsion=1e-5, eps=1e-3)(jnp.asarray([offset, 0.0]), jnp.zeros(2))
    np.testing.assert_allclose(push, [-1e-5 * offset / 1e-9, 0], rtol=1e-9)


def test_the_first_steps_are_finite_with_the_papers_constants():
    _, _, state = paths(precond.neumann(0.1, warmup=0), gradients(SHAPES, steps=5))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_the_average_in_the_warmup():
    grads, params = gradients(SHAPES, steps=6), flat(start())
    for warmup_decay, expected in [
        (0.0, lambda path: path[-1]),
        (1.0, lambda path: params),
        (0.9, lambda path: 0.9**6 * params + sum(0.1 * 0.9 ** (5 - i) * p for i, p in enumerate(path))),
    ]:
        tx = precond.scale_by_neumann(ETA, warmup=6, warmup_decay=warmup_decay)
        path, _, state = paths(tx, grads)
        np.testing.assert_allclose(flat(state.average), expected(path), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(path, params - ETA * np.cumsum([flat(g) for g in grads], axis=0), rtol=1e-12)


@pytest.mark.parametrize("regularized", [False, True])
def test_the_regularizer_in_a_reset(regularized):
    grads, p = gradients(SHAPES, steps=5), jax.tree.map(jnp.asarray, start())
    penalty = precond.large_batches.convexify(0.5, 0.1)
    tx = precond.scale_by_neumann(
        ETA, momentum=0.5, regularizer=penalty, warmup=0, resets=4, regularized_resets=regularized
    )
    _, _, state = paths(tx, grads[:4])
    p = optax.apply_updates(p, jax.tree.map(jnp.ones_like, p))
    updates, state = tx.update(grads[4], state, p)
    force = flat(penalty(p, jax.tree.map(jnp.asarray, state_before(tx, grads[:4]).average))) if regularized else 0
    g = flat(grads[4])
    np.testing.assert_allclose(flat(state.displacement.direction), -ETA * g, rtol=1e-13)
    np.testing.assert_allclose(flat(updates), -0.5 * ETA * g - ETA * (g + force), rtol=1e-12)


def state_before(tx, grads):
    return paths(tx, grads)[2]


def test_rotated_parameters_take_rotated_steps():
    """Its norms are of all parameters together: any rotation of the whole vector passes through."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((9, 9)))[0]
    p, grads = rng.standard_normal(9), rng.standard_normal((20, 9))
    tx = precond.scale_by_neumann(ETA, regularizer=precond.large_batches.convexify(0.3, 0.02), warmup=2, resets=5)

    def run(p, grads):
        path = trajectory(tx, {"x": p}, [{"x": g} for g in grads])
        return path["x"]

    np.testing.assert_allclose(run(turn @ p, grads @ turn.T), run(p, grads) @ turn.T, rtol=1e-11, atol=1e-12)


def quadratic(eigenvalues, seed=0):
    rng = np.random.default_rng(seed)
    n = len(eigenvalues)
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return jnp.asarray((q * eigenvalues) @ q.T), jnp.asarray(rng.standard_normal(n))


def test_algorithm_1_takes_the_newton_step():
    h, b = quadratic([0.2, 0.5, 1.0, 1.7])
    grad_fn, w = jax.grad(lambda w: 0.5 * w @ h @ w - b @ w), jnp.ones(4)
    tx = optax.chain(precond.contrib.scale_by_neumann_series(1.0, terms=150), optax.scale_by_learning_rate(1.0))
    updates, _ = jax.jit(lambda g, s, p: tx.update(g, s, p, grad_fn=grad_fn))(grad_fn(w), tx.init(w), w)
    newton = -np.linalg.solve(h, grad_fn(w))
    assert np.abs(updates - newton).max() < 1e-12 * np.abs(newton).max()


@pytest.mark.parametrize("terms", [0, 1, 7])
def test_algorithm_1_is_the_papers_for_any_number_of_terms(terms):
    h, b = quadratic([-0.3, 0.5, 3.0])
    grad_fn, w = jax.grad(lambda w: 0.5 * w @ h @ w - b @ w + jnp.sum(w**3)), jnp.ones(3)
    m = -grad_fn(w)
    for _ in range(terms):
        m = m - grad_fn(w + 0.2 * m)
    tx = precond.contrib.scale_by_neumann_series(0.2, terms)
    updates, _ = tx.update(grad_fn(w), tx.init(w), w, grad_fn=grad_fn)
    np.testing.assert_allclose(-updates, 0.2 * m, rtol=1e-12)


def test_equation_9_tends_to_its_fixed_point_with_negative_curvature():
    h, b = quadratic([-0.5, -0.1, 0.4, 2.0])
    grad_fn, w = jax.grad(lambda w: 0.5 * w @ h @ w - b @ w), jnp.ones(4)
    mu, eta = 2.0 / 2.5, 1 / 2.0
    tx = precond.contrib.scale_by_neumann_series(eta, terms=1000, shrink=0.9 * mu)
    updates, _ = tx.update(grad_fn(w), tx.init(w), w, grad_fn=grad_fn)
    convex = (1 - 0.9 * mu) * np.eye(4) + 0.9 * mu * eta * np.asarray(h)
    assert np.linalg.eigvalsh(convex).min() > 0
    np.testing.assert_allclose(updates, np.linalg.solve(convex, eta * grad_fn(w)), rtol=1e-12)


def test_eval_params_goes_through_wrappers_and_leaves_what_is_masked():
    p = jax.tree.map(jnp.asarray, start())
    (g,) = gradients(SHAPES, steps=1)
    step = precond.scale_by_neumann(ETA, momentum=0.5, regularizer=None, warmup=0)
    tx = optax.masked(optax.chain(optax.identity(), step), {"w": True, "b": False})
    updates, state = tx.update(g, tx.init(p), p)
    moved = optax.apply_updates(p, updates)
    back = precond.large_batches.eval_params(state, moved)
    np.testing.assert_allclose(back["w"], p["w"] - ETA * g["w"], rtol=1e-13)
    np.testing.assert_array_equal(back["b"], moved["b"])
    both = optax.partition({"a": step, "b": step}, {"w": "a", "b": "b"})
    updates, state = both.update(g, both.init(p), p)
    back = precond.large_batches.eval_params(state, optax.apply_updates(p, updates))
    jax.tree.map(lambda x, y, z: np.testing.assert_allclose(x, y - ETA * z, rtol=1e-13), back, p, g)
    with pytest.raises(ValueError, match=r"no displacement.*\(state, params\)"):
        precond.large_batches.eval_params(optax.sgd(0.1).init(p), p)


def test_over_shards_the_norm_is_that_of_the_whole_or_an_error():
    mesh, spec = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,)), {"w": P("x"), "b": P()}
    grads = gradients(SHAPES, steps=6)
    given = {"cubic": 0.3, "repulsion": 0.02, "warmup": 0}

    def sharded(axis):
        def steps(params, grads):
            tx = precond.neumann(ETA, axis=axis, **given)
            state = tx.init(params)
            for g in grads:
                updates, state = tx.update(g, state, params)
                params = optax.apply_updates(params, updates)
            return params

        many = [jax.tree.map(jnp.asarray, g) for g in grads]
        mapped = jax.shard_map(steps, mesh=mesh, in_specs=(spec, [spec] * len(many)), out_specs=spec)
        return jax.jit(mapped)(jax.tree.map(jnp.asarray, start()), many)

    expected, _, _ = paths(precond.neumann(ETA, **given), grads)
    np.testing.assert_allclose(flat(sharded("x")), expected[-1], rtol=1e-12)
    with pytest.raises(ValueError, match=r"differ between the devices of \['x'\]: pass axis=\('x',\)"):
        sharded(None)


def test_the_alias_is_assembled_of_the_parts():
    grads = gradients(SHAPES, steps=30)
    spelled_out = optax.chain(
        optax.add_decayed_weights(0.1),
        precond.scale_by_neumann(ETA, momentum=precond.large_batches.growing_momentum(epoch=3), warmup=15, resets=30),
    )
    expected, _, _ = paths(spelled_out, grads)
    actual, _, _ = paths(precond.neumann(ETA, epoch=3, weight_decay=0.1), grads)
    np.testing.assert_array_equal(actual, expected)
    injected = optax.inject_hyperparams(precond.neumann)(ETA, epoch=3, weight_decay=0.1)
    actual, _, state = paths(injected, grads)
    np.testing.assert_allclose(actual, expected, rtol=1e-13)
    assert {"learning_rate", "cubic", "repulsion", "warmup", "resets", "epoch"} < set(state.hyperparams)


def test_a_gradient_that_is_not_finite_is_no_step():
    grads = gradients(SHAPES, steps=8)
    bad = jax.tree.map(lambda g: g * np.nan, grads[0])
    expected, _, _ = paths(precond.neumann(ETA), grads)
    actual, _, _ = paths(precond.neumann(ETA), [*grads[:4], bad, *grads[4:]])
    np.testing.assert_array_equal(np.delete(actual, 4, axis=0), expected)


def test_what_is_missing_or_out_of_range_is_named():
    for make, message in [
        (lambda: precond.neumann(-0.1), r"learning_rate=-0.1"),
        (lambda: precond.neumann(0.1, momentum=1.5), r"momentum=1.5"),
        (lambda: precond.neumann(0.1, decay=2.0), r"decay=2.0"),
        (lambda: precond.neumann(0.1, warmup=-1), r"warmup=-1"),
        (lambda: precond.neumann(0.1, resets=0), r"resets=0"),
        (lambda: precond.neumann(0.1, repulsion=-1.0), r"repulsion=-1.0.*None leaves"),
        (lambda: precond.large_batches.convexify(eps=0), r"eps=0"),
        (lambda: precond.large_batches.growing_momentum(2.0), r"low=2.0"),
        (lambda: precond.contrib.scale_by_neumann_series(-1.0, 3), r"inner_rate=-1.0"),
        (lambda: precond.contrib.scale_by_neumann_series(1.0, -3), r"terms=-3"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
    g = jnp.ones(2)
    tx = precond.neumann(0.1)
    with pytest.raises(ValueError, match=r"needs the parameters.*regularizer=None"):
        tx.update(g, tx.init(g))
    tx = precond.contrib.scale_by_neumann_series(0.1, 3)
    with pytest.raises(ValueError, match="grad_fn"):
        tx.update(g, tx.init(g), g)

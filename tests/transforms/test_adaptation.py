"""Exact learning rate and momentum, and Levenberg-Marquardt damping, against dense float64 definitions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond

pytestmark = pytest.mark.usefixtures("x64")


def network(params, x):
    return jnp.tanh(x @ params["first"]) @ params["second"]


def cross_entropy(y):
    return lambda logits: -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1))


@pytest.fixture
def problem(x64):
    rng = np.random.default_rng(0)
    shapes = {"first": (4, 3), "second": (3, 3)}
    params = {k: jnp.asarray(rng.standard_normal(s)) for k, s in shapes.items()}
    return params, jnp.asarray(rng.standard_normal((16, 4))), jnp.asarray(rng.integers(0, 3, 16))


def flat(tree):
    return np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(tree)])


def dense_ggn(params, x):
    """The mean over examples of J^T (diag(p) - p p^T) J, one by one."""
    total = 0
    for row in x:
        jacobian = jax.jacobian(lambda p, row=row: network(p, row[None])[0])(params)
        j = np.concatenate([np.asarray(m).reshape(3, -1) for m in jax.tree.leaves(jacobian)], axis=1)
        p = np.asarray(jax.nn.softmax(network(params, row[None])[0]))
        total = total + j.T @ (np.diag(p) - np.outer(p, p)) @ j
    return total / len(x)


def test_products_are_those_with_the_dense_gauss_newton_matrix(problem):
    params, x, y = problem
    product = precond.layers.ggn_product(lambda p: network(p, x), cross_entropy(y), params)
    v = jax.tree.map(lambda p: jnp.sin(7 * p), params)
    np.testing.assert_allclose(flat(product(v)), dense_ggn(params, x) @ flat(v), rtol=1e-10)


def test_learning_rate_and_momentum_are_the_minimum_of_the_dense_quadratic_model(problem):
    params, x, y = problem
    damping, tx = 0.3, precond.transforms.quadratic_model(optax.scale_by_adam(), damping=0.3)
    loss = lambda p: cross_entropy(y)(network(p, x))  # noqa: E731

    @jax.jit
    def step(params, state):
        product = precond.layers.ggn_product(lambda p: network(p, x), cross_entropy(y), params)
        grads = jax.grad(loss)(params)
        return grads, *tx.update(grads, state, params, curvature=product)

    state, adam = tx.init(params), optax.scale_by_adam()
    inner, before = adam.init(params), []
    for count in range(3):
        grads, updates, state = step(params, state)
        new, inner = adam.update(grads, inner, params)
        basis = np.stack([flat(new), *before[-1:]], axis=1)  # the first step has no other direction
        full = dense_ggn(params, x) + damping * np.eye(len(basis))
        best = -np.linalg.solve(basis.T @ full @ basis, basis.T @ flat(grads))
        np.testing.assert_allclose(flat(updates), basis @ best, rtol=1e-8)
        np.testing.assert_allclose(state.learning_rate, -best[0], rtol=1e-8)
        np.testing.assert_allclose(state.momentum, best[1] if count else 0, rtol=1e-8)
        before.append(flat(updates))
        params = optax.apply_updates(params, updates)


def test_products_with_the_empirical_fisher_matrix_are_those_of_single_gradients(problem):
    params, x, y = problem

    def losses(p):
        return -jnp.take_along_axis(jax.nn.log_softmax(network(p, x)), y[:, None], 1)[:, 0]

    rows = np.concatenate(
        [np.asarray(m).reshape(16, -1) for m in jax.tree.leaves(jax.jacobian(losses)(params))], axis=1
    )
    v = jax.tree.map(lambda p: jnp.sin(7 * p), params)
    product = precond.layers.empirical_product(losses, params)
    np.testing.assert_allclose(flat(product(v)), rows.T @ (rows @ flat(v)) / 16, rtol=1e-10)
    with pytest.raises(ValueError, match="one loss for each example"):
        precond.layers.empirical_product(lambda p: jnp.sum(losses(p)), params)


@pytest.mark.parametrize("fixed", ["learning_rate", "momentum"])
def test_what_is_given_stays_and_the_other_is_the_minimum_of_the_model(x64, fixed):
    rng = np.random.default_rng(1)
    root = rng.standard_normal((6, 6))
    matrix, x = jnp.asarray(root @ root.T + np.eye(6)), jnp.asarray(rng.standard_normal(6))
    tx = precond.transforms.quadratic_model(optax.scale_by_adam(), damping=0.3, **{fixed: 0.2})
    state, adam, before = tx.init(x), optax.scale_by_adam(), np.zeros(6)
    inner, full = adam.init(x), np.asarray(matrix) + 0.3 * np.eye(6)
    for _ in range(3):
        g = matrix @ x
        updates, state = tx.update(g, state, curvature=lambda v: matrix @ v)
        new, inner = adam.update(g, inner)
        known, free = (-0.2 * new, before) if fixed == "learning_rate" else (0.2 * before, np.asarray(new))
        bend = free @ full @ free
        expected = known - free * (free @ (g + full @ known)) / (bend if bend else 1)
        np.testing.assert_allclose(updates, expected, rtol=1e-10)
        assert getattr(state, fixed) == 0.2
        before, x = np.asarray(updates), x + updates
    with pytest.raises(ValueError, match="nothing to choose"):
        precond.transforms.quadratic_model(optax.identity(), learning_rate=0.1, momentum=0.9)


def test_on_a_quadratic_the_gradient_and_the_last_step_are_conjugate_gradients(x64):
    rng = np.random.default_rng(1)
    root = rng.standard_normal((6, 6))
    matrix = jnp.asarray(root @ root.T + np.eye(6))
    x, tx = jnp.asarray(rng.standard_normal(6)), precond.transforms.quadratic_model(optax.identity())
    state, first = tx.init(x), jnp.linalg.norm(x)
    for _ in range(6):
        updates, state = tx.update(matrix @ x, state, curvature=lambda v: matrix @ v)
        x = x + updates
    assert jnp.linalg.norm(x) < 1e-8 * first


def test_a_direction_of_nothing_or_of_no_number_moves_nothing(x64):
    tx, x = precond.transforms.quadratic_model(optax.identity()), jnp.ones(3)
    for bad in (jnp.zeros(3), jnp.asarray([1.0, jnp.nan, 0.0])):
        updates, state = tx.update(bad, tx.init(x), curvature=lambda v: v)
        np.testing.assert_array_equal(updates, 0)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


ALL_CASES = {"rejected", "raised", "lowered", "kept"}


def newton(damping):
    """On x^4 / 4 + x^2: the curvature 2 that is given is too small far away, and right at the end."""
    return optax.scale(-1 / (2 + damping))


@pytest.mark.parametrize(
    ("interval", "decay", "steps", "cases", "options"),
    [
        (2, 0.5, 30, {"rejected", "lowered", "kept"}, {}),
        (1, 0.8, 55, ALL_CASES, {}),
        (1, 0.8, 40, ALL_CASES, {"thresholds": (0.5, 0.9), "rejection": 3.0, "damped": False}),
    ],
)
def test_damping_follows_the_rule_and_a_step_that_goes_up_is_none(x64, interval, decay, steps, cases, options):
    """In numbers, by hand, for a loss whose curvature is understated, so that all cases occur."""
    loss = lambda x: x**4 / 4 + x**2  # noqa: E731
    damping = 0.01
    tx = precond.transforms.levenberg_marquardt(newton, damping, interval=interval, decay=decay, **options)
    low, high = options.get("thresholds", (0.25, 0.75))
    x, seen = 6.0, set()
    state = tx.init(jnp.asarray(x))
    update = jax.jit(
        lambda g, s, x: tx.update(g, s, x, value=loss(x), value_fn=loss, curvature=lambda v: 2 * v),
    )
    for count in range(1, steps + 1):
        g = x**3 + 2 * x
        step = -g / (2 + damping)
        rho = (loss(x + step) - loss(x)) / (g * step + (2 + damping * options.get("damped", True)) * step**2 / 2)
        rejected = loss(x + step) > loss(x)
        updates, state = update(jnp.asarray(g), state, jnp.asarray(x))
        np.testing.assert_allclose(updates, 0 if rejected else step, rtol=1e-9)
        if rejected:
            damping, case = damping * options.get("rejection", decay**-interval), "rejected"
        elif count % interval:
            case = "kept"
        elif rho > high:
            damping, case = damping * decay**interval, "lowered"
        else:
            case = "raised" if rho < low else "kept"
            damping = damping / decay**interval if rho < low else damping
        np.testing.assert_allclose(state.damping, damping, rtol=1e-9)
        seen.add(case)
        x += float(updates)
    assert seen == cases
    assert abs(x) < 1e-3
    assert state.rejected > 0


@pytest.mark.parametrize(("ratio", "factor"), [(0.24, 2.0), (0.26, 1.0), (0.74, 1.0), (0.76, 0.5)])
def test_damping_changes_where_the_model_foretells_less_than_a_quarter_or_more_than_three(x64, ratio, factor):
    tx, x = (
        precond.transforms.levenberg_marquardt(lambda damping: optax.scale(-0.5), 1.0, interval=1, decay=0.5),
        jnp.ones(()),
    )
    down = jnp.asarray(-0.25 * ratio)  # -1/4 is foretold
    more = {"value": jnp.zeros(()), "value_fn": lambda p: down, "curvature": lambda v: v}
    assert tx.update(x, tx.init(x), x, **more)[1].damping == factor


def test_a_rejected_step_leaves_the_inner_state_and_one_that_is_no_number_is_rejected(x64):
    tx = precond.transforms.levenberg_marquardt(
        lambda damping: optax.chain(optax.trace(0.9), optax.scale(-damping)), 1.0
    )
    x = jnp.asarray([1.0, -2.0])
    state = tx.init(x)
    for value_fn in (lambda p: jnp.sum(p**2) + 100, lambda p: jnp.sum(p) * jnp.nan):
        updates, after = tx.update(x, state, x, value=5.0, value_fn=value_fn, curvature=lambda v: v)
        np.testing.assert_array_equal(updates, 0)
        chex.assert_trees_all_equal(after.inner, state.inner)
        assert after.damping > state.damping
        assert after.rejected == 1


@pytest.mark.slow
def test_kfac_with_both_needs_no_learning_rate(problem):
    """The whole method of Martens and Grosse: from a damping much too large, and from one much too small."""
    params, x, y = problem
    nested = {"a": {"kernel": params["first"]}, "b": {"kernel": params["second"]}}
    kinds = {name: precond.layers.dense(bias=False) for name in nested}
    capture = precond.layers.explicit(kinds, nested)

    def forward(p, x):
        h = jnp.tanh(capture.apply("a", p["a"], x @ p["a"]["kernel"], x))
        return capture.apply("b", p["b"], h @ p["b"]["kernel"], h)

    f = precond.layers.value_grad_factors(
        forward,
        lambda logits, x: cross_entropy(y)(logits),
        capture,
        fisher=precond.layers.exact(precond.layers.categorical()),
    )

    for first in (10.0, 1e-6):
        tx = precond.transforms.levenberg_marquardt(
            lambda damping: precond.transforms.quadratic_model(
                precond.scale_by_kfac(capture.layers, damping=damping, refresh=1), damping
            ),
            first,
            interval=1,
            decay=0.8,
        )

        @jax.jit
        def step(p, state, tx=tx):
            value, grads, factors = f(p, x)
            product = precond.layers.ggn_product(lambda q: forward(q, x), cross_entropy(y), p)
            more = {"value": value, "value_fn": lambda q: cross_entropy(y)(forward(q, x)), "curvature": product}
            updates, state = tx.update(grads, state, p, factors=factors, **more)
            return optax.apply_updates(p, updates), state, value

        p, state, values = nested, tx.init(nested), []
        for _ in range(60):
            p, state, value = step(p, state)
            values.append(float(value))
        assert np.all(np.diff(values) <= 1e-12)  # no accepted step goes up
        assert values[-1] < 0.25 * values[0]
        assert (state.damping < first) == (first > 1)


def test_errors_say_what_to_do(x64):
    x = jnp.ones(2)
    with pytest.raises(ValueError, match="damping=-1"):
        precond.transforms.quadratic_model(optax.identity(), damping=-1)
    tx = precond.transforms.quadratic_model(optax.identity())
    with pytest.raises(TypeError, match="curvature=: a function"):
        tx.update(x, tx.init(x))
    with pytest.raises(ValueError, match="interval=0"):
        precond.transforms.levenberg_marquardt(newton, interval=0)
    with pytest.raises(ValueError, match="high=0"):
        precond.transforms.levenberg_marquardt(newton, low=1.0, high=0.0)
    adaptive = precond.transforms.levenberg_marquardt(newton)
    with pytest.raises(TypeError, match="needs value_fn="):
        adaptive.update(x, adaptive.init(x), x, value=1.0)

"""What is computed beside training is what a plain loop computes, whatever the host does meanwhile."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from precond.engine import KroneckerState
from precond.linalg import dense
from precond.roots import Axis
from tests import reference
from tests.host import runs
from tests.host.runs import STEPS, N

x64 = pytest.mark.usefixtures("x64")


def defined(w, grads, *, decay, damping, lr):
    """Shampoo without momentum on one matrix, with roots of the factors of the boundary before, in plain numpy."""
    factors, path = [np.zeros((d, d)) for d in w.shape], []
    roots, coming = [np.eye(d) for d in w.shape], None
    for t, g in enumerate(grads, 1):
        factors = [decay * f + (1 - decay) * reference.gram(g, i) for i, f in enumerate(factors)]
        if t % N == 0 and coming is not None:
            roots = coming
        w = w - lr * reference.kron_multiply(g, roots)
        if t % N == 0:
            means = [f / (1 - decay**t) for f in factors]
            coming = [reference.power(f, -0.25, damping * np.linalg.eigvalsh(f)[-1]) for f in means]
        path.append(w)
    return path


@x64
def test_it_is_what_a_plain_loop_does_with_the_factors_of_the_boundary_before():
    grads = runs.gradients()
    root = precond.inverse_root(damping=precond.relative(1e-3))
    direction = precond.scale_by_kronecker(precond.outer_products(0.9), root, refresh=precond.on_host(N))
    tx = optax.chain(precond.blocked(direction), optax.scale(-0.1))
    path, _ = runs.whole(tx, grads, 2)
    for name in ("one", "two", "long"):
        given = [np.asarray(g[name]) for g in grads]
        expected = defined(np.asarray(runs.params_of()[name]), given, decay=0.9, damping=1e-3, lr=0.1)
        for p, e in zip(path, expected, strict=True):
            np.testing.assert_allclose(p[name], e, rtol=0, atol=1e-12 * np.abs(e).max())


def emulated(tx, root, steps):
    """The same for any optimizer with one engine: stop at a boundary, call the root itself on whole stacks, go on."""
    params, step, coming = runs.params_of(), runs.stepper(tx), None
    state, path = tx.init(params), []

    @jax.jit
    def fresh(engine):
        first = engine.host.captured_at == N

        def one(factors, old):
            pairs = zip(factors, old.derived, strict=True)
            return tuple(root.refresh(dense(f), d, root.power(Axis(0, 2, 2)), first) for f, d in pairs)

        return {name: one(engine.host.factors[name], old) for name, old in engine.roots.items()}

    def swap(engine):
        roots = {}
        for name, old in engine.roots.items():
            moments = old.moments
            for axis, bases in enumerate(zip(old.derived, coming[name], strict=True)):
                moments = moments if root.transport is None else root.transport(moments, *bases, axis)
            roots[name] = old._replace(derived=coming[name], moments=moments)
        return engine._replace(roots=roots)

    def is_engine(x):
        return isinstance(x, KroneckerState)

    for t, (g, extra) in enumerate(steps, 1):
        if coming is not None and t % N == 0:
            state = jax.tree.map(lambda x: swap(x) if is_engine(x) else x, state, is_leaf=is_engine)
        params, state = step(params, state, g, **extra)
        if t % N == 0:
            coming = fresh(runs.engines(state)[0])
        path.append(jax.tree.map(np.array, params))
    return path


def layers():
    described = {name: precond.layers.dense(bias=False) for name in ("one", "two")}
    params = {name: {"kernel": jnp.zeros(runs.SHAPES[name])} for name in described}
    capture = precond.layers.explicit(described, params)
    return {k: x._replace(kernel=k) for k, x in capture.layers.items()}


def factors_of(seed):
    rng = np.random.default_rng(seed)

    def spd(d):
        x = rng.standard_normal((1, d, d + 2))
        return jnp.asarray(x @ x.transpose(0, 2, 1))

    return {k: precond.layers.LayerFactors(*map(spd, runs.SHAPES[k])) for k in ("one", "two")}


ROOTS = {
    "shampoo": (
        lambda r: runs.shampoo(refresh=r),
        lambda: precond.inverse_root(power=1 / 3, damping=precond.relative(1e-3)),
    ),
    "soap": (
        lambda r: precond.soap(0.1, refresh=r, block_size=4),
        lambda: precond.eigenbasis(transport=precond.roots.rotated()),
    ),
    "soap, rotations": (
        lambda r: precond.soap(0.1, method=precond.roots.rotations(group=1), refresh=r, block_size=4),
        lambda: precond.eigenbasis(method=precond.roots.rotations(group=1), transport=precond.roots.rotated()),
    ),
    "kl_shampoo": (
        lambda r: precond.kl_shampoo(0.1, refresh=r, damping=1e-3, block_size=4),
        lambda: precond.inverse_root(power=0.5, damping=precond.relative(1e-3)),
    ),
    "kfac": (lambda r: precond.kfac(0.1, layers(), refresh=r), lambda: precond.inverse(1e-3)),
    "kfac, eigen_inverse": (
        lambda r: precond.kfac(0.1, layers(), root=precond.eigen_inverse(1e-3), refresh=r),
        lambda: precond.eigen_inverse(1e-3),
    ),
}


@x64
# The other roots are of the same structure, refreshed by another of the same functions.
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in ("soap, rotations", "kl_shampoo"))) for n in ROOTS]
)
def test_every_root_is_refreshed_by_its_own_refresh(name):
    make, root = ROOTS[name]
    tx = make(precond.on_host(N))
    extras = [{"factors": factors_of(i)} if "kfac" in name else {} for i in range(STEPS)]
    steps = list(zip(runs.gradients(), extras, strict=True))
    expected = emulated(tx, root(), steps)
    params, step = runs.params_of(), runs.stepper(tx)
    state = tx.init(params)
    with precond.host_refresh(tx, params, workers=2) as refresh:
        for (g, extra), e in zip(steps, expected, strict=True):
            params, state = step(params, refresh(state), g, **extra)
            chex.assert_trees_all_close(params, e, rtol=0, atol=1e-12)
    moved = [np.any(np.asarray(x) != np.eye(x.shape[-1])) for x in matrices(state)]
    assert moved
    assert all(moved)


def matrices(state):
    """Of all roots."""
    leaves = jax.tree_util.tree_leaves_with_path([e.roots for e in runs.engines(state)])
    return [x for path, x in leaves if "matrix" in jax.tree_util.keystr(path)]


@x64
def test_a_slow_host_changes_no_bit():
    grads = runs.gradients()
    expected = runs.whole(runs.shampoo(), grads, 2)
    runs.assert_equal(runs.whole(runs.shampoo(), grads, runs.Slow(1)), expected)


@x64
def test_training_goes_on_while_the_host_computes():
    tx, grads, pool = runs.shampoo(), runs.gradients(), runs.Gated()
    with precond.host_refresh(tx, runs.params_of(), workers=pool) as refresh:
        path, state = runs.run(tx, grads[: 2 * N - 2], refresh)  # one has been on its way for N - 2 updates
        assert pool.asked > 0
        assert not pool.gate.is_set()
        assert {np.abs(x - np.eye(x.shape[-1])).max() for x in map(np.asarray, matrices(state))} == {0}
        pool.gate.set()
        after, _ = runs.run(tx, grads[2 * N - 2 :], refresh, (jax.tree.map(jnp.asarray, path[-1]), state))
    runs.assert_equal(path + after, runs.whole(tx, grads)[0])


@x64
@pytest.mark.parametrize("period", [1, 4])
def test_roots_lag_by_n_to_2n_minus_1_updates(period):
    tx = runs.shampoo(period)
    params, step = runs.params_of(), runs.stepper(tx)
    state, seen = tx.init(params), []
    with precond.host_refresh(tx, params, workers=1) as refresh:
        for t, g in enumerate(runs.gradients(), 1):
            params, state = step(params, refresh(state), g)
            if t >= 2 * period:
                seen.append(precond.metrics(state)["host/staleness"].item())
    assert set(seen) == set(range(period, 2 * period))


def test_roots_are_those_of_float64_where_training_is_in_float32():
    w = reference.matrix_of_spectrum(np.geomspace(1, 1e-3, 4), np.random.default_rng(5))
    grads = {"w": jnp.asarray(w, jnp.float32)}
    root = precond.inverse_root(damping=precond.absolute(0.0))
    tx = precond.blocked(precond.scale_by_kronecker(precond.outer_products(1.0), root, refresh=precond.on_host(1)))
    state, update = tx.init(grads), jax.jit(tx.update)
    with precond.host_refresh(tx, grads, workers=1) as refresh:
        state = refresh(update(grads, state)[1])
    taken = np.asarray(dense(runs.engines(state)[0].host.factors["4x4"][0]))
    found = runs.engines(state)[0].roots["4x4"].derived[0].matrix
    exact = reference.power(taken[0].astype(np.float64), -0.25)
    on_device = jax.jit(root.refresh, static_argnums=2)(taken, root.init(None, (taken,)).derived[0], 0.25, True)
    assert found.dtype == on_device.matrix.dtype == jnp.float32
    errors = [np.abs(x[0] - exact).max() / np.abs(exact).max() for x in (found, on_device.matrix)]
    assert errors[0] < 1e-6  # its last rounding
    assert errors[1] > 100 * errors[0]

"""Gradients in narrow types are computed with in float32: only updates are rounded."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from precond import large_batches, recipes, transforms
from precond.trees import wide
from tests import catalog
from tests.conformance import harness

SHAPES = {"kernel": (6, 4), "bias": (4,), "scale": ()}


def gradients(dtype, size):
    rng = np.random.default_rng(0)
    return [{k: jnp.asarray(size * rng.standard_normal(s), dtype) for k, s in SHAPES.items()} for _ in range(6)]


def updates(tx, grads, params=None):
    params = grads[0] if params is None else params
    state, update, out = tx.init(params), jax.jit(tx.update), []
    for g in grads:
        u, state = update(g, state, params)
        out.append(u)
    return out


WHOLE = catalog.DEFAULTS + catalog.RECIPES + catalog.AROUND + catalog.WHOLE + catalog.LAYERED
PARTS = {
    "adascale of Adam": lambda: large_batches.differenced(precond.adascale(optax.adam, 0.1, scale=2)),
    "accumulated Adam": lambda: precond.accumulate(optax.adam(0.1), 2),
    "nesterov": lambda: transforms.nesterov(0.999),
    "lookahead_ema": lambda: transforms.lookahead_ema(0.9),
    "low_rank": lambda: transforms.low_rank(1),
    "with_momentum": lambda: precond.with_momentum(optax.ema(0.9), transforms.scale_by_diagonal(0.99)),
    "cautious": lambda: transforms.cautious(optax.ema(0.9)),
}


def check_rounding(tx, dtype, params=None):
    """Rounded are the direction, and its product with the rate. Squares of 1e-4 are zero in float16, as 1e-8 is."""
    grads = gradients(dtype, 1e-4)
    for ours, exact in zip(updates(tx, grads, params), updates(tx, wide(grads), wide(params)), strict=True):
        assert {x.dtype for x in jax.tree.leaves(ours)} == {jnp.dtype(dtype)}
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
            a, b = np.asarray(a, np.float32), np.asarray(b)
            np.testing.assert_allclose(a, b, rtol=1.01 * float(jnp.finfo(dtype).eps), atol=1.2e-7)  # the least float16


# Either type is rounded in the same place. In float16 small numbers are zero, too.
@pytest.mark.parametrize(
    "dtype", [jnp.float16, pytest.param(jnp.bfloat16, marks=pytest.mark.slow)], ids=["float16", "bfloat16"]
)
@harness.each(WHOLE, quick=("shampoo", "kfac", "adascale_shampoo"))
def test_updates_are_those_of_float32_but_for_rounding(case, dtype):
    # Gradients are small beside the decay, which is lost where it is added to them in their own type. The recipes'
    # directions are small, too, and their rounding beside a decay that cancels them is more than that of the updates.
    decay = {} if case in catalog.RECIPES else {"weight_decay": 0.01}
    tx = case.make(**harness.known(case, decay))
    check_rounding(tx, dtype, gradients(dtype, 1.0)[0])


@pytest.mark.parametrize("make", PARTS.values(), ids=PARTS)
def test_parts_outside_of_blocked_compute_in_float32(make):
    check_rounding(make(), jnp.bfloat16)
    kept = jax.tree.leaves(jax.eval_shape(make().init, gradients(jnp.float16, 1.0)[0]))
    assert all(x.dtype.itemsize > 2 for x in kept if jnp.issubdtype(x.dtype, jnp.floating))


def test_a_gradient_of_zeros_moves_nothing_without_an_alias_around():
    tx = precond.blocked(optax.scale_by_adam(), block_size=4)
    zero = {k: jnp.zeros(s, jnp.float16) for k, s in SHAPES.items()}
    for u in updates(tx, [zero, zero]):
        assert not any(x.any() for x in jax.tree.leaves(u))
    small = jax.tree.map(lambda x: x + jnp.float16(1e-4), zero)
    (first, *_) = updates(tx, [small])
    np.testing.assert_allclose(np.asarray(first["bias"], np.float32), 1, rtol=2e-3)


def test_nothing_narrow_is_kept_by_any():
    params = {k: jax.ShapeDtypeStruct(s, jnp.float16) for k, s in SHAPES.items()}
    tearfree = catalog.Case("google_tearfree", recipes.google_tearfree, {"learning_rate": 0.1})
    averaging = catalog.Case("primal_averaging", recipes.primal_averaging, {})
    for case in (*catalog.DEFAULTS, *catalog.RECIPES, *catalog.AROUND, *catalog.WHOLE, tearfree, averaging):
        kept = jax.tree_util.tree_flatten_with_path(jax.eval_shape(case.make().init, params))[0]
        narrow = [path for path, x in kept if jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4]
        assert not narrow, case.name


@pytest.mark.parametrize("make", [recipes.google_tearfree, lambda: optax.chain(recipes.primal_averaging())])
def test_a_small_gradient_in_float16_moves_as_in_float32(make):
    grads = gradients(jnp.float16, 1e-4)
    for ours, exact in zip(updates(make(), grads), updates(make(), wide(grads)), strict=True):
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
            np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=1e-3, atol=1e-7)

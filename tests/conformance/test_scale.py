"""The scale of the loss changes no update, from the first step on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from tests import catalog, of_gradients
from tests.conformance import harness

SHAPES = {"kernel": (6, 4), "deep": {"kernel": (3, 4, 6)}, "bias": (5,)}
SCALES = (1e-6, 0.7, 1e6)  # in float32, and no powers of two, so that rounding differs
FREE = [case for case in catalog.ALIASES if case.name not in ("shampoo_sgd_magnitude", "shampoo_sum")]


def gradients(step, scale, zero):
    """The first ones are zero, and those of the kernel once more, as those of A in LoRA."""
    rng = np.random.default_rng(step)
    grads = jax.tree.map(lambda s: jnp.asarray(scale * rng.standard_normal(s)), SHAPES, is_leaf=harness.is_shape)
    still = zero and {0: ("kernel", "deep", "bias"), 1: ("kernel",)}.get(step, ())
    return {k: jax.tree.map(jnp.zeros_like, x) if still and k in still else x for k, x in grads.items()}


def updates(tx, scale, zero):
    params = jax.tree.map(jnp.zeros_like, gradients(0, 1.0, zero=False))
    state, update, out = tx.init(params), jax.jit(tx.update), []
    for step in range(14):
        u, state = update(gradients(step, scale, zero), state, params)
        out.append(u)
    return out


@pytest.mark.usefixtures("x64")
@harness.each(FREE)
@pytest.mark.parametrize("zero", [False, True], ids=["", "after a gradient of zeros"])
def test_gradients_of_any_size_give_the_same_updates(case, zero):
    # By powers of four, with which rounding commutes, and their roots too. The eps of denominators is left, which is
    # seen at the smallest.
    tx = case.make()
    expected = updates(tx, 1.0, zero)
    for scale in (2.0**-20, 2.0**-10, 2.0**10, 2.0**20):
        for a, b in zip(updates(tx, scale, zero), expected, strict=True):
            for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
                np.testing.assert_allclose(x, y, rtol=0, atol=1e-4 * (np.abs(y).max() + 1e-30))
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(expected[-1]))


@pytest.mark.parametrize(
    "make",
    [precond.soap, functools.partial(precond.soap, method=precond.eigh()), precond.kl_soap],
    ids=["soap", "soap by eigh", "kl_soap"],
)
def test_rounding_does_not_choose_the_basis_where_a_factor_has_no_full_rank(make):
    rng = np.random.default_rng(0)
    grads = jnp.asarray(rng.standard_normal((3, 24, 16)), jnp.float32)  # a rank of 16 of 24 after the first step
    tx = make(1.0)

    @jax.jit
    def path(scale):
        return jax.lax.scan(lambda s, g: tx.update(scale * g, s)[::-1], tx.init(grads[0]), grads)[1]

    expected = path(1.0)
    for scale in (1e-3, 0.7, 3e5):  # these are not powers of two, so that rounding differs
        np.testing.assert_allclose(path(scale), expected, rtol=0, atol=1e-3 * np.abs(expected).max())


def test_neither_does_it_where_columns_of_a_step_depend_on_each_other():
    """All 28 old columns see the second gradient, of rank 8: 20 of the new ones would be rounding alone."""
    rng = np.random.default_rng(0)
    grads = jnp.asarray(rng.standard_normal((4, 36, 8)), jnp.float32)
    tx = precond.kl_soap(1.0)

    @jax.jit
    def path(scale):
        return jax.lax.scan(lambda s, g: tx.update(scale * g, s)[::-1], tx.init(grads[0]), grads)[1]

    expected = path(1.0)
    for scale in (1e-3, 0.7, 3e5):
        np.testing.assert_allclose(path(scale), expected, rtol=0, atol=5e-3 * np.abs(expected).max())


@harness.each(catalog.DEFAULTS, quick=("soap",))
def test_gradients_whose_squares_are_rounded_to_zero_make_no_step_longer(case):
    """Entries of a layer have sizes from 1 to 1e-6, times a number whose square is near the smallest of float32."""
    spread = jnp.geomspace(1, 1e-3, 12)
    grads = harness.normal({"kernel": (6, 12, 12), "bias": (6, 5)})
    grads["kernel"] *= spread[:, None] * spread
    tx = case.make()
    params = jax.tree.map(lambda x: jnp.ones(x.shape[1:]), grads)

    @jax.jit
    def longest(scale):
        def step(state, g):
            updates, state = tx.update(jax.tree.map(lambda x: scale * x, g), state, params)
            return state, jax.tree.map(optax.tree.norm, updates)

        return jax.tree.map(jnp.max, jax.lax.scan(step, tx.init(params), grads)[1])

    usual = longest(1.0)
    for scale in (1e-12, 1e-14, 1e-16, 1e-18, 1e-20, 1e-30):
        found = longest(scale)
        assert all(found[name] <= 2 * usual[name] for name in usual), (scale, found, usual)


def test_small_rows_keep_their_steps_where_only_columns_have_a_basis():
    """Rounding does not go from row to row there, so a row of 1e-5 moves as far as its neighbour."""
    size = jnp.where(jnp.arange(300) % 2, 1.0, 1e-5)[:, None]
    grads = jnp.asarray(np.random.default_rng(0).standard_normal((5, 300, 4)), jnp.float32) * size
    tx = precond.soap(1.0, views=lambda path, leaf: precond.View((0, 1), passive=(0,)), block_size=512)
    found = jax.lax.scan(lambda s, g: tx.update(g, s)[::-1], tx.init(grads[0]), grads)[1]
    small, usual = (np.abs(found[-1][start::2]).mean() for start in (0, 1))
    assert 0.8 < small / usual < 1.25


def path(make, steps=14, shapes=SHAPES):
    """The updates of gradients c g as a function of c, compiled once; what is made may depend on c, too."""
    every = [harness.normal(shapes, seed=i) for i in range(steps)]
    grads = jax.tree.map(lambda *x: jnp.stack(x), *every)

    def updates(c):
        tx = make(c)
        return jax.lax.scan(lambda s, g: tx.update(harness.scaled(g, c), s, every[0])[::-1], tx.init(every[0]), grads)[
            1
        ]

    return jax.jit(updates)


def check_scales(updates, rtol, scales=SCALES):
    expected = updates(1.0)
    assert all(np.abs(x[-1]).max() > 0 for x in jax.tree.leaves(expected))
    for scale in scales:
        for x, y in zip(*map(jax.tree.leaves, (updates(scale), expected)), strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=rtol * np.abs(y).max())


@harness.each(catalog.DEFAULTS, quick=("shampoo",))
def test_in_float32_they_differ_by_rounding(case):
    # Shampoo's first factors lack directions, whose eigenvalues are of rounding's size beside the damping.
    check_scales(path(lambda c: case.make()), rtol=2e-2 if case.name == "shampoo" else 1e-3)


@pytest.mark.parametrize("make", [of_gradients.kfac, of_gradients.ekfac, None], ids=["kfac", "ekfac", "blocked"])
def test_parameters_without_a_view_do_not_see_the_scale_in_any(make):
    tx = precond.blocked(optax.identity()) if make is None else make(0.1)
    updates = path(lambda c: tx, steps=3, shapes={"kernel": (3, 2), "bias": (5,), "scale": ()})
    check_scales(lambda c: {k: x for k, x in updates(c).items() if k != "kernel"}, rtol=1e-5)


def of_a_layer(c):
    """K-FAC on a layer whose factor of inputs does not see the scale of the loss, and that of outputs does."""
    params = {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}
    layer = precond.layers.explicit({"": precond.layers.dense()}, params).layers
    tx = precond.kfac(0.1 * c, layer, damping=1e-2 * c**2, bound=jnp.inf)

    def update(grads, state, params=None):
        whole = jnp.concatenate([grads["kernel"], grads["bias"][None]])
        factors = {"": precond.layers.LayerFactors(jnp.diag(jnp.arange(1.0, 5))[None], (whole.T @ whole)[None])}
        return tx.update(grads, state, params, factors=factors)

    return optax.GradientTransformation(tx.init, update)


ABSOLUTE = {
    "kfac": of_a_layer,
    "mfac": lambda c: precond.mfac(0.1 * c, window=4, damping=0.1 * c**2),
    "neumann": lambda c: precond.neumann(0.1 / c, repulsion=None, cubic=None),
}


@pytest.mark.parametrize("make", ABSOLUTE.values(), ids=ABSOLUTE)
def test_where_damping_is_absolute_it_follows_the_scale(make):
    check_scales(path(make, steps=4, shapes={"kernel": (3, 2), "bias": (2,)}), rtol=1e-4, scales=(1e-4, 0.7, 1e4))


def test_the_gain_of_adascale_does_not_see_the_scale_above_its_least_variance():
    def free_above(least):
        estimator = precond.large_batches.paper_gain(least_variance=least)
        tx = precond.large_batches.differenced(precond.adascale(precond.shampoo, 0.1, 2, estimator=estimator))
        check_scales(path(lambda c: tx, shapes={"bias": (5,)}), rtol=1e-4, scales=(1e-6,))

    free_above(0.0)
    with pytest.raises(AssertionError, match="Not equal"):
        free_above(1e-6)


def test_kl_shampoo_brings_a_small_loss_home_as_a_large_one():
    """With absolute statistics a loss times 1e-4 stood still for hundreds of steps."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((32, 32)), jnp.float32)
    tx = precond.kl_shampoo(3e-2)

    @jax.jit
    def last(scale):
        def step(carry, _):
            w, state = carry
            updates, state = tx.update(scale * x.T @ (x @ w - x) / 32, state)
            return (w + updates, state), None

        (w, _), _ = jax.lax.scan(step, (jnp.zeros_like(x), tx.init(x)), None, 60)
        return jnp.mean(jnp.square(x @ w - x)) / jnp.mean(x**2)

    np.testing.assert_allclose(last(1e-4), last(1.0), rtol=1e-2)
    assert last(1.0) < 0.5

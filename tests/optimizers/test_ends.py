"""How an alias ends: its `scale_by_` with a tail is the alias, and weight decay may be a schedule, as in Optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from precond.optimizers.finish import finish
from precond.transforms.adam import adam
from tests import of_gradients
from tests.conformance import harness

SHAPES = {"kernel": (6, 4), "bias": (4,)}
RATE = optax.linear_schedule(1e-1, 1e-3, 5)
DECAY = optax.piecewise_constant_schedule(0.5, {1: 0.1, 3: 0.0})
ALIASES = {
    "shampoo": (precond.shampoo, precond.scale_by_shampoo),
    "soap": (precond.soap, precond.scale_by_soap),
    "kl_shampoo": (precond.kl_shampoo, precond.scale_by_kl_shampoo),
    "muon": (precond.muon, precond.scale_by_muon),
}
DECAYED = {
    **{name: alias for name, (alias, _) in ALIASES.items()},
    "mfac": precond.mfac,
    "kfac": of_gradients.kfac,
    "ekfac": of_gradients.ekfac,
}


def assert_same(first, second, steps=3):
    """Operation by operation: a compiler fuses multiplications with additions, the one here and the other there."""
    params, grads = harness.normal(SHAPES), harness.gradients(SHAPES, steps=steps)
    with jax.disable_jit():
        actual, _, _ = harness.run(first, params, grads)
        expected, _, _ = harness.run(second, params, grads)
    assert any(np.any(x) for x in jax.tree.leaves(actual[-1]))
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


# All end in the same function; `test_definitions.py` spells Shampoo out.
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "muon")) for n in ALIASES])
def test_an_alias_is_its_scale_by_with_decay_and_rate_to_the_last_bit(name):
    alias, scale_by = ALIASES[name]
    options = {} if name == "muon" else {"refresh": 2}
    tail = (optax.add_decayed_weights(0.25), optax.scale_by_learning_rate(RATE))
    assert_same(alias(RATE, weight_decay=0.25, b1=0.8, **options), optax.chain(scale_by(b1=0.8, **options), *tail))


def test_ekfac_is_its_scale_by_with_momentum_bound_and_rate_to_the_last_bit():

    def around(direction):
        bounded = precond.transforms.clip_by_kl(direction, RATE, 1e-3)
        return precond.with_momentum(precond.per_block(optax.ema(0.9)), bounded)

    def spelled(rate, layers, **_):
        scaled = precond.scale_by_ekfac(layers, around=around, otherwise=adam(0.9, 0.999, None), refresh=2)
        return optax.chain(scaled, optax.scale_by_learning_rate(rate))

    assert_same(of_gradients.ekfac(RATE, refresh=2), of_gradients._made(spelled, True, RATE))


@pytest.mark.parametrize("name", DECAYED)
def test_weight_decay_may_be_a_schedule_that_counts_from_0(name):
    params, zeros = harness.normal(SHAPES), jax.tree.map(jnp.zeros_like, harness.normal(SHAPES))
    tx, adamw = DECAYED[name](0.1, weight_decay=DECAY), optax.adamw(0.1, weight_decay=DECAY)
    _, actual, _ = harness.run_jitted(tx, params, [zeros] * 4)
    _, expected, _ = harness.run_jitted(adamw, params, [zeros] * 4)
    harness.assert_close(actual, expected, rtol=1e-6)
    ratio = float(actual["bias"][0] / params["bias"][0])
    assert ratio == pytest.approx(0.95 * 0.995 * 0.995, rel=1e-5)  # 0.5 in step 0, 0.05 in steps 1 and 2, then 0


def test_neumann_takes_a_schedule_of_weight_decay_too():
    params = harness.normal(SHAPES)
    zeros = jax.tree.map(jnp.zeros_like, params)
    given = {"repulsion": None, "cubic": None, "momentum": 0.0}
    _, actual, _ = harness.run_jitted(precond.neumann(0.1, weight_decay=DECAY, **given), params, [zeros] * 4)
    assert float(actual["bias"][0] / params["bias"][0]) == pytest.approx(0.95 * 0.995 * 0.995, rel=1e-5)


@pytest.mark.parametrize("name", ["shampoo", "mfac"])
def test_the_mask_holds_for_a_schedule(name):
    params = harness.normal(SHAPES)
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = DECAYED[name](0.1, weight_decay=DECAY, mask={"kernel": True, "bias": False})
    _, actual, _ = harness.run_jitted(tx, params, [zeros])
    np.testing.assert_array_equal(actual["bias"], params["bias"])
    np.testing.assert_allclose(actual["kernel"], 0.95 * params["kernel"], rtol=1e-6)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_weight_decay_that_cannot_be_meant_is_refused(value):
    with pytest.raises(ValueError, match="weight_decay"):
        precond.shampoo(1e-3, weight_decay=value)


def test_a_skipped_step_is_none_for_the_schedule_of_weight_decay():
    params = harness.normal(SHAPES)
    bad = jax.tree.map(lambda x: x * jnp.nan, params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    _, actual, _ = harness.run_jitted(precond.shampoo(0.1, weight_decay=DECAY), params, [bad, bad, zeros])
    np.testing.assert_allclose(actual["bias"], 0.95 * params["bias"], rtol=1e-6)


@pytest.mark.parametrize("alias", [precond.shampoo, precond.soap, precond.kl_shampoo, precond.kl_soap])
def test_a_sum_of_squares_moves_parameters_without_a_view_too(alias):
    tx = alias(1.0, b1=0.0, b2=1.0)  # AdaGrad
    params = {"bias": jnp.zeros(2)}
    state, grads = tx.init(params), {"bias": jnp.asarray([3.0, -4.0])}
    for t in range(1, 4):
        updates, state = tx.update(grads, state, params)
        np.testing.assert_allclose(updates["bias"], np.asarray([-1.0, 1.0]) / np.sqrt(t), rtol=1e-5)


def test_decay_and_rate_of_narrow_parameters_are_computed_in_float32():
    # In bfloat16 both 1.003 and 1 + 0.003 would be 1, and so would be their product.
    rate = lambda count: jnp.float32(1.003) + 0 * count  # noqa: E731
    tx = finish(precond.blocked(optax.identity(), otherwise=optax.identity(), skipped=-jnp.inf), rate, 0.003, None)
    params = {"bias": jnp.ones(2, jnp.bfloat16)}
    updates, _ = tx.update(params, tx.init(params), params)
    expected = jnp.asarray(-1.003 * 1.003, jnp.bfloat16)
    assert updates["bias"].tolist() == [expected.item()] * 2


@pytest.mark.parametrize("broken", [-np.inf, np.inf, np.nan])
def test_what_a_broken_part_returns_is_seen_and_is_no_skipped_step(broken):
    part = optax.stateless(lambda updates, params: jax.tree.map(lambda x: jnp.full_like(x, broken), updates))
    tx = finish(precond.blocked(part, otherwise=part, skipped=-jnp.inf), 0.1, None, None)
    params = {"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))}
    updates, state = tx.update(params, tx.init(params), params)
    assert not any(jnp.isfinite(x).any() for x in jax.tree.leaves(updates))
    assert not any(x.any() for _, x in optax.tree.get_all_with_path(state, "blocks_skipped"))

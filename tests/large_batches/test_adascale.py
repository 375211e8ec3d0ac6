"""AdaScale against its definition, FairScale's numbers and a problem whose noise is known."""

import functools
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import precond
from precond import replicas

GOLDEN = np.load(Path(__file__).parent.parent / "parity" / "golden" / "adascale_fairscale.npz")

close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-14)


def definition(steps, scale, rule, smoothing=None, least=1e-6):
    """The gain of each step from its gradients `[n, d]`, by the formulas of the papers; one scale, or one a step."""
    out, samples, last, scales = [], [], None, np.broadcast_to(scale, len(steps))
    for gradients, scale in zip(steps, scales, strict=True):
        n = len(gradients)
        theta = {"paper": max(1 - scale / 1000, 0), "fairscale": max(1 - n / 1000, 0), "adaptdl": 0.999**scale}[rule]
        theta = theta if smoothing is None else smoothing
        mean = gradients.mean(0)
        variance = (scale / n) * ((gradients**2).sum() - n * (mean**2).sum()) / (n - 1)
        square = (mean**2).sum() - variance / scale
        if rule != "adaptdl":
            variance, square = max(variance, least), max(square, 0)
        samples.append((variance, square))
        t = len(samples)
        if rule != "paper":
            weights = (1 - theta) * theta ** np.arange(t)[::-1] / (1 - theta**t)
            v, s = weights @ np.array(samples)
        elif theta == 0 or t < 1 / (1 - theta):
            v, s = samples[-1] if theta == 0 else np.mean(samples, axis=0)
        else:
            v, s = theta * np.array(last) + (1 - theta) * np.array(samples[-1])
        last = v, s
        v, s = max(v, least), max(s, 0)
        out.append(1.0 if rule == "paper" and t == 1 else (v + s) / (v / scale + s))
    return out


def run(tx, params, steps, **extra):
    """Parameters and AdaScale's gain after every step, each from a stack of gradients."""
    state, update = tx.init(params), jax.jit(tx.update)
    path, gains = [], []
    for gradients in steps:
        mean, statistics = replicas.stacked(gradients)
        updates, state = update(mean, state, params, replicas=statistics, **extra)
        params = optax.apply_updates(params, updates)
        path.append(params)
        gains.append(optax.tree.get(state, "gain"))
    return path, np.array(gains), state


def noise(steps=40, n=4, d=7, seed=0):
    """Gradients whose mean fades away in the noise."""
    rng = np.random.default_rng(seed)
    mean = rng.standard_normal(d)
    return [jnp.asarray(3 * 0.9**t * mean + rng.standard_normal((n, d))) for t in range(steps)]


def linear_layer(*inputs):
    """The gradients of the sum of the outputs of a layer 2 to 2 with bias, one an input."""
    return jnp.asarray([[*x, *x, 1.0, 1.0] for x in inputs])


def sgd(**kwargs):
    return functools.partial(optax.sgd, **kwargs)


def test_fairscales_trajectory(x64):
    params = {"w": jnp.ones((6, 5)), "b": jnp.ones(5)}
    steps = [
        {"w": jnp.asarray(w), "b": jnp.asarray(b)} for w, b in zip(GOLDEN["micro_w"], GOLDEN["micro_b"], strict=True)
    ]
    tx = precond.adascale(sgd(momentum=0.9), 0.05, scale=4, estimator=precond.large_batches.fairscale_gain())
    path, gains, _ = run(tx, params, steps)
    close(gains, GOLDEN["gain"])
    for name in params:
        close(np.stack([p[name] for p in path]), GOLDEN[name])


FAIRSCALES = [
    ([[1, 0], [0, 1]], 4 / 3, 1e-12),
    ([[-1, 1], [1, -1]], 2, 1e-12),
    ([[1, 4], [5, 0.5]], 1.4688796680, 1e-9),
    ([[-0.2, 3], [5, 0.5]], 1.8472893902, 1e-8),  # FairScale's is of float32
    ([[1, 1], [1, 1]], 1.0000001, 1e-7),
]


def test_fairscales_documented_gains(x64):
    tx = precond.scale_by_adascale(0.1, 2, estimator=precond.large_batches.fairscale_gain())
    update = jax.jit(tx.update)
    for inputs, expected, digits in FAIRSCALES:
        mean, statistics = replicas.stacked(linear_layer(*inputs))
        _, state = update(mean, tx.init(mean), replicas=statistics)
        np.testing.assert_allclose(state.gain, expected, rtol=digits, err_msg=str(inputs))


@pytest.mark.parametrize(
    ("estimator", "first", "second"),
    [
        (None, 1.0, 1.67223433),
        (precond.large_batches.paper_gain(start=0), 1.79822222, 1.67223433),
        (precond.large_batches.fairscale_gain(), 1.79822222, 1.67209694),
    ],
    ids=["paper", "paper_from_the_first_step", "fairscale"],
)
def test_two_steps_that_tell_the_paper_and_fairscale_apart(x64, estimator, first, second):
    steps = [linear_layer([-0.2, 3.3], [5.2, 0.7]), linear_layer([1, 4], [3.1, 0.1])]
    _, gains, _ = run(precond.adascale(optax.sgd, 0.1, scale=2, estimator=estimator), jnp.zeros(6), steps)
    np.testing.assert_allclose(gains, [first, second], rtol=5e-9)


RULES = {
    "paper": precond.large_batches.paper_gain,
    "fairscale": precond.large_batches.fairscale_gain,
    "adaptdl": precond.large_batches.adaptdl_gain,
}


@pytest.mark.parametrize("smoothing", [None, 0.9, pytest.param(0.5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", RULES)
def test_gains_are_those_of_the_definition(x64, rule, smoothing):
    steps, estimator = noise(), RULES[rule]() if smoothing is None else RULES[rule](smoothing)
    tx = precond.scale_by_adascale(0.1, 2, estimator=estimator)
    update = jax.jit(lambda *state_of, **extra: tx.update(*state_of, **extra)[1])
    for scale in (4, 2.5, 32, 300):
        theta = smoothing and (smoothing**scale if rule == "adaptdl" else smoothing)
        state, gains = tx.init(jnp.zeros(7)), []
        for s in steps:
            mean, statistics = replicas.stacked(s)
            state = update(mean, state, replicas=statistics, scale=jnp.asarray(scale, float))
            gains.append(float(state.gain))
        np.testing.assert_allclose(gains, definition(steps, scale, rule, theta), rtol=1e-10)
        assert 1 <= min(gains) <= max(gains) <= scale
        assert gains[-1] > 1.2 * gains[1]  # as the gradient fades


def test_the_paper_averages_nothing_at_a_thousand(x64):
    steps = noise()
    _, gains, _ = run(precond.adascale(optax.sgd, 0.1, 1000), jnp.zeros(7), steps)
    np.testing.assert_allclose(gains, definition(steps, 1000, "paper"), rtol=1e-10)
    single = [definition([s], 1000, "adaptdl")[0] for s in steps[1:]]
    np.testing.assert_allclose(gains[1:], single, rtol=1e-10)


def expected_statistics(square, variance, scale):
    """What S gradients of base batches (or 2 of halves of one) are on average, exactly."""
    n = max(scale, 2)
    return replicas.Replicas(n, n, jnp.asarray((n - 1) * variance * n / scale), jnp.asarray(square + variance / scale))


@pytest.mark.parametrize("scale", [2, 8, 64])
def test_the_closed_form_on_the_noisy_quadratic(x64, scale):
    """Curvatures 1/i, and noise whose covariance they are: the gain is known, and so is what each step does."""
    h = 1 / np.arange(1, 51)
    w, variance = jnp.ones(50), h.sum()
    tx = precond.adascale(
        optax.sgd, 0.02, scale, estimator=precond.large_batches.paper_gain(0.0, least_variance=0.0, start=0)
    )
    state, expected, tau = tx.init(w), np.ones(50), 0.0
    for _ in range(30):
        square = np.sum((h * np.asarray(w)) ** 2)
        updates, state = tx.update(h * w, state, w, replicas=expected_statistics(square, variance, scale))
        w = optax.apply_updates(w, updates)
        r = (variance + np.sum((h * expected) ** 2)) / (variance / scale + np.sum((h * expected) ** 2))
        expected, tau = expected - 0.02 * r * h * expected, tau + r
        close(optax.tree.get(state, "gain"), r)
        close(w, expected)
    close(precond.metrics(state)["adascale/step"], tau)
    close(precond.metrics(state)["adascale/noise_scale"], variance / square)


def test_estimates_are_unbiased():
    """The mean of many estimates is the truth, for n parts of S base batches."""
    rng, scale, n, d = np.random.default_rng(0), 12, 4, 5
    mean = 0.3 * np.ones(d)
    # A part has 3 base batches, and a third of their variance, 1 a coordinate.
    steps = jnp.asarray(mean + rng.standard_normal((20_000, n, d)) / np.sqrt(3), jnp.float32)
    _, statistics = jax.vmap(replicas.stacked)(steps)
    spread = np.asarray(statistics.deviation, np.float64) / (n - 1)
    for samples, truth in ((spread * scale / n, d), (statistics.square - spread / n, d * 0.09)):
        error = np.std(samples) / np.sqrt(len(samples))
        assert abs(np.mean(samples) - truth) < 4 * error
        assert error < 0.02 * truth


@pytest.mark.parametrize(
    "estimator",
    [
        precond.large_batches.paper_gain(start=0),
        precond.large_batches.fairscale_gain(),
        precond.large_batches.adaptdl_gain(),
    ],
)
def test_pure_noise_gains_everything_and_no_noise_nothing(estimator):
    tx = precond.adascale(optax.sgd, 0.1, 4, estimator=estimator)
    apart = jnp.asarray([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    _, gains, state = run(tx, jnp.zeros(2), [apart] * 3)
    np.testing.assert_array_equal(gains, [4.0] * 3)
    assert all(np.isfinite(x) for x in precond.metrics(state).values())
    _, gains, state = run(tx, jnp.zeros(2), [1000 * jnp.ones((4, 2))] * 3)
    np.testing.assert_allclose(gains, [1.0] * 3, rtol=1e-6)
    assert all(np.isfinite(x) for x in precond.metrics(state).values())


@given(
    variance=st.floats(0, 2.0**100, width=32),
    square=st.floats(0, 2.0**100, width=32),
    scale=st.floats(1, 2.0**20, width=32),
)
def test_the_gain_lies_between_one_and_the_scale(variance, square, scale):
    r = float(precond.large_batches.gain.gain(jnp.float32(variance), jnp.float32(square), jnp.float32(scale)))
    assert 1 <= r <= scale


def test_with_a_scale_of_one_it_is_the_optimizer():
    params, steps = jnp.zeros(7), noise(5)
    schedule = optax.exponential_decay(0.1, 1, 0.5)
    expected, state = optax.adam(schedule), optax.adam(schedule).init(params)
    for tx, extra in (
        (precond.adascale(optax.adam, schedule, 1), {}),
        (
            precond.adascale(optax.adam, schedule, 1, estimator=precond.large_batches.fairscale_gain()),
            {"replicas": True},
        ),
    ):
        ours, state, p, q = tx.init(params), expected.init(params), params, params
        for s in steps:
            mean, statistics = replicas.stacked(s)
            updates, ours = tx.update(mean, ours, p, **dict.fromkeys(extra, statistics))
            p = optax.apply_updates(p, updates)
            updates, state = expected.update(mean, state, q)
            q = optax.apply_updates(q, updates)
        np.testing.assert_allclose(p, q, rtol=1e-6)
        assert precond.metrics(ours)["adascale/step"] == 5


def test_the_schedule_is_read_at_the_floor_of_the_invariant_step(x64):
    """With a constant gain of 1.6: steps 0, 1.6, 3.2, 4.8, 6.4."""
    seen = optax.piecewise_constant_schedule(1.0, {1: 10.0, 2: 10.0, 3: 10.0, 4: 10.0, 5: 10.0, 6: 10.0})
    statistics = expected_statistics(0.25, 0.25, 4)  # (1 + 1) / (1/4 + 1)
    tx = precond.scale_by_adascale(seen, 4, estimator=precond.large_batches.paper_gain(start=0))
    state, out = tx.init(jnp.zeros(())), []
    for _ in range(5):
        update, state = tx.update(jnp.ones(()), state, replicas=statistics)
        out.append(float(update) / 1.6)
    np.testing.assert_allclose(out, [1, 10, 1000, 10_000, 1_000_000], rtol=1e-6)
    assert not precond.large_batches.done(state, 8.1)
    assert precond.large_batches.done(state, 7.9)


def test_the_invariant_step_loses_nothing_in_float32():
    tx = precond.scale_by_adascale(1.0, 4, estimator=precond.large_batches.paper_gain(start=0))
    state = tx.init(jnp.zeros(()))._replace(step=jnp.asarray(2**26, jnp.int32))
    statistics = jax.tree.map(jnp.float32, expected_statistics(0.25, 0.25, 4))

    def body(state, _):
        return tx.update(jnp.ones(()), state, replicas=statistics)[1], None

    state, _ = jax.lax.scan(body, state, length=1000)
    assert abs(int(state.step) - 2**26 + float(state.fraction) - 1600) < 1e-2


def test_momentum_decay_and_clipping_stand_before_the_gain(x64):
    """As in PyTorch: buffer and decay know nothing of the learning rate; clipping comes after the statistics."""
    steps, w, lr = noise(12), np.ones(7), 0.05
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        precond.adascale(
            lambda lr: optax.chain(optax.trace(0.9), optax.add_decayed_weights(0.1), optax.scale(-lr)), lr, 4
        ),
    )
    path, gains, _ = run(tx, jnp.asarray(w), steps)
    np.testing.assert_allclose(gains, definition(steps, 4, "paper"), rtol=1e-10)
    buffer = np.zeros(7)
    for s, p, r in zip(steps, path, gains, strict=True):
        g = np.asarray(s).mean(0)
        buffer = 0.9 * buffer + g * min(1, 1 / np.linalg.norm(g))
        w = w - r * lr * (buffer + 0.1 * w)
        close(p, w)


def test_the_scale_may_change_and_the_base_batch_stays(x64):
    """The same noise seen in 2, 4 or 8 base batches: what is known of the base batch holds for every scale."""
    tx = precond.scale_by_adascale(0.1, 2, estimator=precond.large_batches.fairscale_gain(0.9))
    state = tx.init(jnp.zeros(()))
    for scale in (2, 8, 4, 1, 2):
        _, state = tx.update(jnp.ones(()), state, replicas=expected_statistics(0.5, 2.0, scale), scale=scale)
        close(state.gain, 2.5 / (2.0 / scale + 0.5))
        close(state.variance, [2.0])
        close(state.square, [0.5])
        assert state.scale == scale
    injected = optax.inject_hyperparams(precond.adascale, ("optimizer", "schedule", "estimator", "power", "groups"))(
        optax.sgd, optax.constant_schedule(0.1), scale=2, estimator=precond.large_batches.fairscale_gain()
    )
    state = injected.init(jnp.zeros(()))
    state.hyperparams["scale"] = jnp.asarray(8.0)
    _, state = injected.update(jnp.ones(()), state, replicas=expected_statistics(0.5, 2.0, 8))
    np.testing.assert_allclose(optax.tree.get(state, "gain"), 2.5 / 0.75, rtol=1e-6)


@pytest.mark.parametrize("rule", ["paper", "fairscale"])
def test_the_scale_may_change_in_the_middle_of_a_noisy_run(x64, rule):
    """With the number of gradients, and in the middle of what is averaged: 4 base batches, 16, then 2."""
    scales = [4] * 6 + [16] * 6 + [2] * 6
    steps = [noise(t + 20, n=n, seed=t)[-1] for t, n in enumerate(scales)]
    tx = precond.adascale(sgd(momentum=0.9), 0.1, 4, estimator=RULES[rule](0.8))
    params, state, gains, tau = jnp.zeros(7), tx.init(jnp.zeros(7)), [], 0.0
    for scale, s in zip(scales, steps, strict=True):
        mean, statistics = replicas.stacked(s)
        _, state = tx.update(mean, state, params, replicas=statistics, scale=scale)
        gains.append(float(optax.tree.get(state, "gain")))
        tau += gains[-1]
    expected = definition(steps, scales, rule, 0.8)
    np.testing.assert_allclose(gains, expected, rtol=1e-10)
    close(precond.metrics(state)["adascale/step"], tau)
    assert max(gains[:6]) < max(gains[6:12]) > 3 * max(gains[12:]) / 2


def test_the_root_of_the_gain_scales_adam_and_the_gain_the_schedule(x64):
    steps, rates = noise(8), 0.1 * 0.9 ** np.arange(33)
    tx = precond.adascale(optax.adam, lambda step: jnp.asarray(rates)[step], 4, power=0.5)
    path, gains, _ = run(tx, jnp.zeros(7), steps)
    adam = optax.scale_by_adam()
    w, state, tau = jnp.zeros(7), adam.init(jnp.zeros(7)), 0.0
    for s, p, r in zip(steps, path, gains, strict=True):
        direction, state = adam.update(s.mean(0), state)
        w = w - np.sqrt(r) * rates[int(tau)] * direction
        tau += r
        close(p, w)


def test_the_gain_in_adams_metric(x64):
    """Statistics of preconditioned gradients are those of gradients that were preconditioned by hand."""
    steps, tx = noise(10), precond.adascale(optax.adam, 0.1, 4, power=0.5)
    by_hand = precond.scale_by_adascale(0.1, 4)
    state, plain = tx.init(jnp.zeros(7)), by_hand.init(jnp.zeros(7))
    adam, gains = optax.adam(1.0).init(jnp.zeros(7)), []
    for s in steps:
        seen = np.asarray(adam[0].nu) / (1 - 0.999 ** max(int(adam[0].count), 1))
        scaled = s / (np.sqrt(seen) + 1e-8) if adam[0].count >= 5 else s
        _, plain = by_hand.update(s.mean(0), plain, replicas=replicas.stacked(scaled)[1])
        mean, statistics = replicas.stacked(s, replicas.adam_metric(state))
        _, state = tx.update(mean, state, replicas=statistics)
        _, adam = optax.adam(1.0).update(mean, adam)
        close(optax.tree.get(state, "gain"), plain.gain)
        gains.append(float(plain.gain))
    assert len(set(gains)) > 5


def test_groups_have_gains_of_their_own_and_one_step_together(x64):
    a, b = noise(12, seed=1), noise(12, d=3, seed=2)
    b = [10 * x for x in b]
    params = {"a": jnp.zeros(7), "b": jnp.zeros(3)}
    tx = precond.adascale(
        optax.sgd,
        0.1,
        4,
        estimator=precond.large_batches.fairscale_gain(),
        groups=lambda tree: {name: name for name in tree},
    )
    path, gains, state = run(tx, params, [{"a": x, "b": y} for x, y in zip(a, b, strict=True)])
    for name, steps in (("a", a), ("b", b)):
        w = np.zeros(path[0][name].shape)
        for s, p, r in zip(steps, path, definition(steps, 4, "fairscale"), strict=True):
            w = w - 0.1 * r * np.asarray(s).mean(0)
            np.testing.assert_allclose(p[name], w, rtol=1e-10)
    variance, square = optax.tree.get(state, "variance"), optax.tree.get(state, "square")
    close(gains[-1], (variance.sum() + square.sum()) / (variance.sum() / 4 + square.sum()))


def test_one_gradient_and_the_one_before_it(x64):
    """AdaptDL's: two samples of the whole batch, so that the mean of the two has twice the scale."""
    rng = np.random.default_rng(0)
    steps = [np.asarray(0.5 + rng.standard_normal(7)) for _ in range(20)]
    tx = precond.large_batches.differenced(
        precond.adascale(optax.sgd, 0.1, 8, estimator=precond.large_batches.adaptdl_gain())
    )
    state, v, s, weight = tx.init(jnp.zeros(7)), 0.0, 0.0, 0.0
    for t, g in enumerate(steps):
        _, state = tx.update(jnp.asarray(g), state)
        r = 1.0
        if t:
            local, total = (np.sum(g**2) + np.sum(steps[t - 1] ** 2)) / 2, np.sum(((g + steps[t - 1]) / 2) ** 2)
            theta = 0.999**16
            weight = theta * weight + 1 - theta
            v += (1 - theta) / weight * ((local - total) * 16 / (2 - 1) - v)
            s += (1 - theta) / weight * ((2 * total - local) / (2 - 1) - s)
            r = (max(v, 1e-6) + max(s, 0)) / (max(v, 1e-6) / 8 + max(s, 0))
        np.testing.assert_allclose(optax.tree.get(state, "gain"), r, rtol=1e-11)


def test_averages_begin_again_when_real_samples_come(x64):
    rng = np.random.default_rng(0)
    single, split = rng.standard_normal((4, 7)), rng.standard_normal((3, 4, 7)) + 1
    tx = precond.large_batches.differenced(
        precond.scale_by_adascale(1.0, 8, estimator=precond.large_batches.adaptdl_gain())
    )
    alone = precond.scale_by_adascale(1.0, 8, estimator=precond.large_batches.adaptdl_gain())
    state, fresh, params = tx.init(jnp.zeros(7)), alone.init(jnp.zeros(7)), jnp.zeros(7)
    for g in single:
        _, state = tx.update(jnp.asarray(g), state, params)
    assert state.inner.samples == 3
    for parts in split:
        mean, found = replicas.stacked(jnp.asarray(parts))
        _, state = tx.update(mean, state, params, replicas=found)
        _, fresh = alone.update(mean, fresh, params, replicas=found)
        for name in ("samples", "weight", "variance", "square", "gain"):
            np.testing.assert_array_equal(getattr(state.inner, name), getattr(fresh, name))
    assert state.inner.count == 7
    _, state = tx.update(jnp.asarray(single[0]), state, params)  # with no single gradient before it
    assert state.inner.samples == 3


def test_adaptdls_rules_and_its_gain_at_another_scale(x64):
    gradients = jnp.asarray(np.random.default_rng(0).standard_normal((4, 7)) + 1)
    mean, found = replicas.stacked(gradients)
    rules = precond.large_batches
    for rule, factors in [
        (rules.linear_rule, (4.0, 4.0)),
        (rules.square_root_rule, (2.0, 2.0)),
        (rules.legw_rule(0.5), (0.0, 2 * 1 / (4 * 0.5))),  # the first step has a gain of 1
    ]:
        tx = precond.adascale(optax.sgd, 0.1, 4, rule=rule)
        state = tx.init(mean)
        for factor in factors:
            updates, state = tx.update(mean, state, replicas=found)
            np.testing.assert_allclose(updates, -0.1 * factor * mean, rtol=1e-12)
    variance = found.deviation / 3
    square = found.square - variance / 4
    for scale in (1, 8, 100):
        expected = (variance + square) / (variance / scale + square)
        np.testing.assert_allclose(rules.gain_at(state, scale), expected, rtol=1e-12)
    seconds = {1: 1.0, 8: 1.2, 100: 9.0}
    per_second = {s: float((variance + square) / (variance / s + square)) / t for s, t in seconds.items()}
    assert rules.best_scale(state, seconds) == max(per_second, key=per_second.get) == 8
    with pytest.raises(ValueError, match="choose one"):
        precond.adascale(optax.adam, 0.1, 4, power=0.5, rule=rules.linear_rule)


def test_a_step_that_is_not_finite_is_none():
    tx, steps = precond.scale_by_adascale(0.1, 4), noise(4)
    bad = steps[0].at[1, 2].set(jnp.nan)
    _, expected, before = run(tx, jnp.zeros(7), steps)
    _, gains, after = run(tx, jnp.zeros(7), [bad, *steps[:2], bad, *steps[2:]])
    np.testing.assert_array_equal(gains[[1, 2, 4, 5]], expected)
    chex.assert_trees_all_equal(after, before)
    _, state = tx.update(jnp.ones(7), after, replicas=replicas.stacked(bad)[1])
    chex.assert_trees_all_equal(state, after)


def test_metrics_say_how_large_the_batch_should_be(x64):
    tx = precond.scale_by_adascale(0.1, 4, estimator=precond.large_batches.fairscale_gain())
    _, state = tx.update(jnp.zeros(()), tx.init(jnp.zeros(())), replicas=expected_statistics(0.5, 6.0, 4))
    found = precond.metrics(state)
    close(found["adascale/noise_scale"], 12.0)
    close(found["adascale/norm_test"], 1.5 / 2.0)
    close(found["adascale/efficiency"], 6.5 / 2.0 / 4)
    # At the scale of the noise scale, half of what a base batch does is done by each.
    assert precond.large_batches.gain.gain(jnp.asarray(6.0), jnp.asarray(0.5), 12) / 12 == pytest.approx(13 / 24)


def test_the_three_tests_of_variance_are_their_definitions(x64):
    rng = np.random.default_rng(0)
    parts = {"a": rng.standard_normal((5, 3)) + 1, "b": rng.standard_normal((5, 2, 2))}
    g = np.concatenate([x.reshape(5, -1) for x in parts.values()], axis=1)
    mean = g.mean(axis=0)
    unit = mean / np.linalg.norm(mean)
    across = g - np.outer(g @ unit, unit)
    found = jax.jit(replicas.variance_tests)(jax.tree.map(jnp.asarray, parts))
    expected = {
        "norm": g.var(axis=0, ddof=1).sum() / 5 / (mean @ mean),
        "inner_product": (g @ mean).var(ddof=1) / 5 / (mean @ mean) ** 2,
        "orthogonality": (across**2).sum() / 4 / 5 / (mean @ mean),
    }
    for name, x in expected.items():
        np.testing.assert_allclose(found[name], x, rtol=1e-12)
    assert all(np.isinf(x) for x in replicas.variance_tests(jnp.asarray([[1.0], [-1.0]])).values())
    with pytest.raises(ValueError, match="one gradient"):
        replicas.variance_tests(jnp.ones((1, 3)))


def test_metrics_are_finite_scalars_inside_jit_from_the_first_step_on():
    """Through accumulation, around Shampoo and with steps that are skipped, also where nothing was measured yet."""
    tx = precond.accumulate(precond.transforms.finite_steps(precond.adascale(precond.shampoo, 0.1, 4)), 2)
    w = jnp.ones((3, 2))

    @jax.jit
    def step(state, g):
        state = tx.update(g, state, w)[1]
        return state, precond.metrics(state)

    state = tx.init(w)
    for g in (w, -w, w / 0, w, 0 * w, 0 * w):
        state, found = step(state, g)
        assert {x.shape for x in found.values()} == {()}
        assert all(np.isfinite(x) for x in found.values()), found
    assert found["steps/skipped"] == 1
    assert found["blocks/skipped"] == 0  # a step that is none is none inside
    assert {"roots/residual", "adascale/gain", "adascale/noise_scale", "adascale/norm_test"} < found.keys()


def test_updates_keep_their_dtype_and_the_state_its_types():
    params = {"a": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(2, jnp.float32), "hole": None}
    tx = precond.adascale(sgd(momentum=0.9), 0.1, 8)
    stack = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), params)
    mean, statistics = replicas.stacked(stack)
    state = tx.init(params)
    updates, after = jax.jit(tx.update)(mean, state, params, replicas=statistics)
    assert jax.tree.map(lambda x: x.dtype, updates) == jax.tree.map(lambda x: x.dtype, params)
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)


def test_what_is_wrong_says_so():
    tx, params = precond.adascale(optax.sgd, 0.1, 8), jnp.zeros(3)
    state, mean = tx.init(params), jnp.ones(3)
    with pytest.raises(ValueError, match=r"scale=8 needs the extra argument replicas.*precond\.replicas"):
        tx.update(mean, state, params)
    with pytest.raises(ValueError, match="replicas of one gradient"):
        tx.update(mean, state, params, replicas=replicas.stacked(mean[None])[1])
    with pytest.raises(ValueError, match="scale=0"):
        tx.update(mean, state, params, replicas=replicas.stacked(mean[None])[1], scale=0)
    with pytest.raises(TypeError, match=r"optax\.sgd, not"):
        precond.adascale(optax.sgd(0.1), 0.1, 8)
    for kwargs in ({"scale": 0.5}, {"scale": 2, "power": 2.0}, {"scale": 2, "schedule": -1.0}):
        with pytest.raises(ValueError, match="="):
            precond.scale_by_adascale(**({"schedule": 0.1} | kwargs))
    for make in RULES.values():
        with pytest.raises(ValueError, match="smoothing=1"):
            make(1.0)
        with pytest.raises(ValueError, match="least_variance=-1"):
            make(0.5, least_variance=-1)
    with pytest.raises(ValueError, match="no AdascaleState"):
        precond.large_batches.done(optax.sgd(0.1).init(params), 1)
    grouped = precond.scale_by_adascale(0.1, 2, groups=lambda tree: {"a": 0})
    two = replicas.stacked({"a": jnp.ones((2, 3))})[1]
    with pytest.raises(ValueError, match="1 labels for 2 parameters"):
        grouped.update({"a": mean, "b": mean}, grouped.init({"a": mean}), replicas=two)


def multi_steps(tx):
    steps = optax.MultiSteps(tx, 1)
    return optax.GradientTransformationExtraArgs(steps.init, steps.update)


WRAPPERS = {
    "masked": lambda tx: optax.masked(tx, {"a": True, "b": True, "hole": None}),
    "partition": lambda tx: optax.partition({0: tx, 1: optax.sgd(0.1)}, {"a": 0, "b": 0, "hole": None}),
    "multi_steps": multi_steps,
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(1e9), tx),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_pass_the_statistics_on(wrap):
    params = {"a": jnp.zeros(7), "b": jnp.zeros(3), "hole": None}
    pairs = zip(noise(3, seed=1), noise(3, d=3, seed=2), strict=True)
    steps = [{"a": a, "b": b, "hole": None} for a, b in pairs]
    tx = precond.adascale(sgd(momentum=0.9), 0.1, 4)
    expected, gains, _ = run(tx, params, steps)
    path, found, state = run(wrap(tx), params, steps)
    np.testing.assert_allclose(found, gains, rtol=1e-6)
    chex.assert_trees_all_close(path, expected, rtol=1e-5)
    mapped = optax.tree.map_params(wrap(tx), lambda v: v, state)
    assert jax.tree.structure(mapped) == jax.tree.structure(state)


def test_an_ensemble_in_a_scan_is_its_members(x64):
    """Under vmap and scan at once, as the loop of a study would run it."""
    members = jnp.stack([jnp.stack(noise(5, seed=s)) for s in range(3)])
    tx = precond.adascale(sgd(momentum=0.9), 0.1, 4)

    def train(steps):
        def body(carry, gradients):
            w, state = carry
            mean, statistics = replicas.stacked(gradients)
            updates, state = tx.update(mean, state, w, replicas=statistics)
            return (optax.apply_updates(w, updates), state), optax.tree.get(state, "gain")

        return jax.lax.scan(body, (jnp.zeros(7), tx.init(jnp.zeros(7))), steps)

    (ends, _), gains = jax.jit(jax.vmap(train))(members)
    for i in range(3):
        path, expected, _ = run(tx, jnp.zeros(7), list(members[i]))
        close(gains[i], expected)
        close(ends[i], path[-1])

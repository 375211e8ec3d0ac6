"""What goes around a system leaves it what it is: each wrapper around each system, against the system alone.

All get the arguments of each system and those of any caller, as in `test_mixtures`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from tests.conformance import harness, mixing
from tests.conformance.mixing import BAD, FIRST, LABELS, SCALE, SECOND, WHOLE

pytestmark = pytest.mark.usefixtures("x64")

RATE = 0.1
TWICE = (0, 0, 1, 1, 2, 2)


def around(name, tx, **more):
    """The updates of what is around a system, for all arguments."""
    return mixing.run(tx, FIRST, extra=mixing.callers(name, "adascale"), **more)[0]


def adascale(name):
    return precond.adascale(functools.partial(mixing.make, name), RATE, SCALE)


def times_gain(updates, around=lambda tx: tx, **more):
    """The updates times the learning rates and gains that AdaScale has around gradient descent."""
    moved, _ = mixing.run(around(precond.adascale(optax.sgd, RATE, SCALE)), FIRST, **more)
    grads = [mixing.part(mixing.gradients(step), FIRST) for step in mixing.ORDER]
    rates = [jax.tree.map(lambda u, g: -u / g, *both) for both in zip(moved, grads, strict=True)]
    assert max(np.max(rate["gain"]["scale"]) for rate in rates) > 1.2 * RATE
    return [jax.tree.map(jnp.multiply, *both) for both in zip(updates, rates, strict=True)]


@pytest.mark.parametrize("name", mixing.systems("kfac", "soap"))
def test_adascale_multiplies_the_updates_by_its_learning_rate_and_gain(name):
    mixing.assert_same(around(name, adascale(name)), times_gain(mixing.alone(name, FIRST)))


@pytest.mark.parametrize("name", mixing.systems("ekfac"))
def test_adascale_chained_behind_a_system_does_the_same(name):
    tx = optax.chain(mixing.make(name), precond.scale_by_adascale(RATE, SCALE))
    mixing.assert_same(around(name, tx), times_gain(mixing.alone(name, FIRST)))


def without_replicas(step):
    return {key: x for key, x in mixing.arguments(step).items() if key != "replicas"}


# AdaScale itself reads the replicas that are left out here.
@pytest.mark.parametrize("name", mixing.systems("kfac", but=("adascale",)))
def test_differenced_makes_the_statistics_of_adascale_from_gradients(name):
    actual = around(name, precond.large_batches.differenced(adascale(name)), given=without_replicas)
    expected = times_gain(mixing.alone(name, FIRST), precond.large_batches.differenced, given=without_replicas)
    mixing.assert_same(actual, expected)


def without_moments(step, names=FIRST, times=1):
    """Arguments that can be averaged over micro-steps, and the statistics of the gradient that is given."""
    factors, replicas = mixing.factors(step, moments=False), mixing.replicas(step, names, times)
    return mixing.arguments(step, factors=factors, replicas=replicas)


def one_for_two(updates):
    """The updates of every second micro-step. The others must be zero."""
    harness.assert_equal(updates[::2], [optax.tree.zeros_like(u) for u in updates[::2]])
    return updates[1::2]


# EK-FAC does not accumulate: its second moments belong to the bases of one step.
@pytest.mark.parametrize("name", mixing.systems("kfac", "adascale", but=("ekfac",)))
def test_accumulating_two_equal_gradients_is_one_step(name):
    tx = precond.accumulate(mixing.make(name), 2, layers=mixing.captured())
    actual = around(name, tx, given=without_moments, order=TWICE)
    expected, _ = mixing.run(mixing.make(name), FIRST, given=functools.partial(without_moments, times=2))
    mixing.assert_same(one_for_two(actual), expected)


@pytest.mark.parametrize("name", mixing.systems("kfac", "bare"))
def test_multi_steps_of_two_equal_gradients_is_one_step(name):
    steps = optax.MultiSteps(mixing.make(name), every_k_schedule=2, accumulator_dtype=jnp.float64)
    tx = optax.GradientTransformationExtraArgs(steps.init, steps.update)
    mixing.assert_same(one_for_two(around(name, tx, order=TWICE)), mixing.alone(name, FIRST))


SKIPPING = {
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, max_consecutive_errors=3),
    "finite_steps": precond.transforms.finite_steps,
}


@pytest.mark.parametrize("skip", SKIPPING)
@pytest.mark.parametrize("name", mixing.systems("kfac", "neumann"))
def test_a_step_that_is_not_finite_is_none(name, skip):
    first, bad, *others = around(name, SKIPPING[skip](mixing.make(name)), order=(0, BAD, 1, 2))
    harness.assert_equal(bad, optax.tree.zeros_like(bad))
    mixing.assert_same([first, *others], mixing.alone(name, FIRST))


def averaged(step):
    """The moving average of the gradients, free of the bias of its start."""
    grads, weights = [mixing.gradients(i) for i in range(step + 1)], 0.5 ** np.arange(step, -1, -1)
    return jax.tree.map(lambda *g: sum(w * x for w, x in zip(weights, g, strict=True)) / sum(weights), *grads)


@pytest.mark.parametrize("name", mixing.systems("kl_shampoo"))
def test_with_momentum_a_system_sees_the_average_of_the_gradients(name):
    actual = around(name, precond.with_momentum(optax.ema(0.5), mixing.make(name)))
    mixing.assert_same(actual, mixing.run(mixing.make(name), FIRST, grads=averaged)[0])


@pytest.mark.parametrize("name", mixing.systems("kfac", "shampoo"))
def test_an_injected_learning_rate_is_that_of_the_system(name):
    tx = optax.inject_hyperparams(lambda learning_rate: mixing.make(name, learning_rate))(learning_rate=1.0)
    mixing.assert_same(around(name, tx), mixing.alone(name, FIRST))


def test_wrappers_around_wrappers_around_a_partition_leave_each_system_what_it_is():
    systems = {"a": mixing.make("kfac"), "b": precond.transforms.finite_steps(mixing.make("adascale"))}
    tx = precond.accumulate(optax.partition(systems, LABELS), 2, layers=mixing.captured())
    tx = optax.apply_if_finite(
        precond.transforms.finite_steps(precond.large_batches.differenced(tx)), max_consecutive_errors=3
    )
    given = functools.partial(without_moments, names=WHOLE)
    extra = mixing.callers("kfac", "adascale")
    actual, _ = mixing.run(tx, given=given, extra=extra, order=(0, BAD, 0, 1, 1, 2, 2))
    del actual[1]
    twice = functools.partial(given, times=2)
    first, second = mixing.run(systems["a"], FIRST, given=twice)[0], mixing.run(systems["b"], SECOND, given=twice)[0]
    mixing.assert_same(one_for_two(actual), [a | b for a, b in zip(first, second, strict=True)])


def test_what_cannot_be_accumulated_says_what_to_do():
    grads, params = mixing.gradients(0), mixing.parameters(0)

    def update(tx, **given):
        tx.update(grads, tx.init(params), params, **given)

    with pytest.raises(ValueError, match=r"let precond\.ekfac see whole batches"):
        update(precond.accumulate(mixing.make("ekfac"), 2, layers=mixing.captured()), **mixing.arguments(0))
    with pytest.raises(ValueError, match=r"layers=capture\.layers"):
        update(precond.accumulate(mixing.make("shampoo"), 2), **mixing.arguments(0))
    inside = precond.accumulate(mixing.make("shampoo"), 2, layers=mixing.captured())
    tx = optax.partition({"a": inside, "b": optax.sgd(1.0)}, LABELS)
    with pytest.raises(ValueError, match=r"around optax\.partition"):
        update(tx, **without_moments(0, WHOLE))


def test_adascale_without_statistics_says_how_to_get_some():
    tx, params = mixing.make("adascale"), mixing.parameters(0)
    with pytest.raises(ValueError, match="extra argument replicas"):
        jax.eval_shape(lambda p: tx.update(p, tx.init(p), p, **without_replicas(0)), params)

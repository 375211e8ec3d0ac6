"""Which moments are taken from a state of Optax: of all groups, and of Adam alone."""

import warnings

import jax
import numpy as np
import optax
import pytest

import precond
from precond.checkpoints import adopt, by_path
from precond.checkpoints.check_moments import largest_ratio
from tests.checkpoint.models import gradients, parameters, run

LABELS = {layer: {"kernel": "decay", "bias": "no_decay"} for layer in "abc"}
DECAYS = {"b1": 0.9, "b2": 0.999}


@pytest.mark.parametrize("around", [lambda tx: tx, lambda tx: optax.chain(optax.clip(1e9), tx)], ids=["alone", "chain"])
def test_the_moments_of_all_groups_are_taken(around):
    # Definition: one Adam for all of them.
    params, tx = parameters(), precond.shampoo(1e-2)
    groups = around(optax.partition({"decay": optax.adamw(1e-3), "no_decay": optax.adam(1e-3)}, LABELS))
    one, other = (adopt(tx, params, run(x, params)[0], **DECAYS) for x in (optax.adam(1e-3), groups))
    assert one[1:] == other[1:]
    assert (len(one.kept), len(one.partly)) == (3, 3)
    for x, y in zip(jax.tree.leaves(one.state[0]), jax.tree.leaves(other.state[0]), strict=True):
        np.testing.assert_array_equal(x, y)


def test_each_group_has_its_own_count():
    params, tx = parameters(), precond.muon(1e-2)
    groups = optax.chain(
        optax.masked(optax.adam(1e-3), {layer: {"kernel": True, "bias": layer == "a"} for layer in params}),
        optax.masked(optax.adam(1e-3), {layer: {"kernel": False, "bias": layer != "a"} for layer in params}),
    )
    first, second = run(groups, params)[0]
    later = run(groups, params, (first, second), steps=range(4, 7))[0]
    adopted = adopt(tx, params, (first, later[1]), **DECAYS)
    assert adopted.state[0].otherwise.inner_state.inner.count.tolist() == [4, 7, 7]


def test_the_decays_of_a_young_adam_are_asked_for():
    params, tx = parameters(), precond.shampoo(1e-2)
    young = run(optax.adam(1e-3, b2=0.95), params)[0]
    with pytest.warns(UserWarning, match=r"after 4 steps, .* b1= and b2= was not given.*pass b1=0.9, b2=0.999"):
        adopt(tx, params, young)
    with pytest.warns(UserWarning, match=r"on the decays that it had, and b2= was not given.*pass b2=0.999"):
        adopt(tx, params, young, b1=0.9)
    # These no longer depend on the decays, or nothing is taken.
    old = (young[0]._replace(count=np.int32(10_000)), *young[1:])
    for state, to in ((old, tx), (optax.adam(1e-3).init(params), tx), (young, optax.adam(1e-3, b2=0.95))):
        adopt(to, params, state)


def test_a_state_of_adamax_is_refused():
    params = parameters()
    tx = optax.adamax(1e-3)
    _, state = tx.update(jax.tree.map(lambda g: 100 * g, gradients(0, params)), tx.init(params), params)
    for given in (state, by_path(optax.adamax(1e-3), params, state)):
        with pytest.raises(ValueError, match=r"no Adam with b1=0.9 and b2=0.999 has: mu\*\*2 / nu is .*optax.adamax"):
            adopt(precond.shampoo(1e-3), params, given, **DECAYS)


def test_too_small_a_b2_is_found_where_it_makes_updates_too_long():
    params = parameters()
    ones = jax.tree.map(np.ones_like, params)
    adam = optax.adam(1e-3)
    state = adam.init(params)
    for _ in range(10):
        _, state = adam.update(ones, state, params)
    with pytest.raises(ValueError, match=r"mu\*\*2 / nu is 65.4, and cannot be more than .*Pass b1= and b2="):
        adopt(precond.shampoo(1e-3), params, state, b1=0.9, b2=0.9)


def test_the_variances_of_adabelief_are_not_taken():
    params, belief = parameters(), optax.adabelief(1e-3)
    state = run(belief, params)[0]
    with pytest.warns(UserWarning, match="state= has a ScaleByBeliefState, whose nu is not the mean of the squared"):
        adopted = adopt(precond.muon(1e-3), params, state, **DECAYS)
    assert (adopted.kept, adopted.partly, len(adopted.anew)) == ((), {}, 6)
    adopted = adopt(belief, params, state)  # its own numbers
    assert len(adopted.kept) == 6


@pytest.mark.parametrize("name", ["adam", "adamw", "nadam", "amsgrad", "lamb", "radam", "yogi"])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_states_of_adams_class_are_taken_at_every_scale(name, size):
    params = parameters()
    tx = getattr(optax, name)(1e-3)
    update, state = jax.jit(tx.update), tx.init(params)
    for step in range(12):
        grads = jax.tree.map(lambda g, s=step: size * (1000.0 if s == 11 else 1.0) * g, gradients(step, params))
        _, state = update(grads, state, params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adopted = adopt(precond.shampoo(1e-3), params, state, **DECAYS)
    assert adopted.kept == ("a/bias", "b/bias", "c/bias")


@pytest.mark.parametrize(("b1", "b2"), [(0.9, 0.999), (0.9, 0.95), (0.5, 0.9), (0.0, 0.99)])
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_the_largest_ratio_is_that_of_the_worst_gradients(b1, b2, steps):
    # Definition: the gradients for which the inequality is an equation, w / u.
    back = np.arange(steps)[::-1]
    w, u = (b**back * (1 - b) / (1 - b**steps) for b in (b1, b2))
    g = w / u
    np.testing.assert_allclose((w @ g) ** 2 / (u @ g**2), largest_ratio(b1, b2, steps), rtol=1e-6)


def test_a_report_is_short():
    tx, params = precond.shampoo(1e-2), {str(i): {"kernel": np.ones((4, 3), np.float32)} for i in range(50)}
    adopted = adopt(tx, params, run(optax.adam(1e-3), params)[0], **DECAYS)
    assert repr(adopted) == (
        "Adopted(kept=0; partly=50: '0/kernel', '1/kernel', '10/kernel', ..; anew=0; uncorrected=0)"
    )

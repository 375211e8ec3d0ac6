"""A parameter that begins anew moves as in a fresh state, and one that is kept moves as before."""

import functools

import jax
import numpy as np
import optax
import pytest

import precond
from precond.checkpoints import adopt, by_path
from tests.checkpoint.models import parameters, run

MADE = {
    "shampoo": precond.shampoo,
    "shampoo b2=0.999": functools.partial(precond.shampoo, b2=0.999),
    "soap": precond.soap,
    "soap b2=0.999": functools.partial(precond.soap, b2=0.999),
    "kl_shampoo": precond.kl_shampoo,
    "kl_soap": precond.kl_soap,
    "muon": precond.muon,
    "muon adam_b2=0.999": functools.partial(precond.muon, adam_b2=0.999),
    "in bfloat16": functools.partial(precond.muon, memory=precond.Memory()),
}
NEW = {"bias": np.ones(8, np.float32), "embedding": np.ones((40, 8), np.float32), "scale": np.ones(3, np.float32)}
AT = {"0": NEW, "z": NEW}  # before and behind the others, in the order of names
NEW_PATHS = tuple(f"{at}/{name}" for at in AT for name in NEW)
STEPS = range(20, 26)
# What has no view is the same part of each alias. Muon has it alone, and Shampoo beside roots.
QUICK = ("shampoo b2=0.999", "muon adam_b2=0.999")


def steps_of(tx, params, state):
    """The updates of some steps; the gradients of a parameter depend on its name alone."""
    names, treedef = list(by_name(params)), jax.tree.structure(params)
    update, found = jax.jit(tx.update), []
    for step in STEPS:
        rng = {name: np.random.default_rng([step, *name.encode()]) for name in names}
        leaves = by_name(params).items()
        grads = treedef.unflatten([rng[name].standard_normal(x.shape, np.float32) for name, x in leaves])
        out, state = update(grads, state, params)
        found.append(out)
    return found


def by_name(tree):
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in jax.tree.leaves_with_path(tree)}


def check(paths, found, expected, rtol=1e-5, atol=1e-6):
    assert paths
    for path in paths:
        for step, (x, y) in enumerate(zip(found, expected, strict=True)):
            np.testing.assert_allclose(by_name(x)[path], by_name(y)[path], rtol, atol, err_msg=f"{path}, step {step}")


def rounding_of(name):
    return {"rtol": 1e-2, "atol": 1e-4} if name == "in bfloat16" else {}


def marked(names, quick):
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in quick)) for name in names]


@pytest.mark.parametrize("name", marked(MADE, QUICK))
def test_parameters_without_a_view_begin_anew_as_in_a_fresh_state_and_the_others_go_on(name):
    # Definition: the fresh state of the new parameters, and the old state of the others.
    tx, old = MADE[name](1e-2), parameters()
    state = run(tx, old)[0]
    adopted = adopt(tx, old | AT, state)
    assert set(adopted.anew) == set(NEW_PATHS)
    found = steps_of(tx, old | AT, adopted.state)
    check(NEW_PATHS, found, steps_of(tx, AT, tx.init(AT)), **rounding_of(name))
    going_on = steps_of(tx, old, state)
    check([f"{layer}/bias" for layer in old], found, going_on)
    if name.startswith("muon"):  # the roots of the others have turns, whose order changes
        check(adopted.kept, found, going_on, rtol=1e-3)


@pytest.mark.parametrize("name", marked(MADE, QUICK[1:]))
def test_after_adam_parameters_without_a_view_begin_anew_as_in_a_fresh_state(name):
    tx, old = MADE[name](1e-2), parameters()
    adopted = adopt(tx, old | AT, run(optax.adam(1e-3), old, steps=range(30))[0], b1=0.9, b2=0.999)
    assert set(adopted.anew) >= set(NEW_PATHS)
    check(NEW_PATHS, steps_of(tx, old | AT, adopted.state), steps_of(tx, AT, tx.init(AT)), **rounding_of(name))


@pytest.mark.parametrize("name", marked(["muon adam_b2=0.999", "shampoo b2=0.999", "soap b2=0.999"], QUICK[:1]))
@pytest.mark.parametrize("steps", [1, 40])
def test_after_adam_of_any_age_its_parameters_without_a_view_go_on_as_with_adam(name, steps):
    # Definition: Adam itself.
    b1 = 0.95 if name.startswith("soap") else 0.9
    adam, params = optax.adam(1e-2, b1, 0.999, eps=1e-15), parameters()
    state = run(adam, params, steps=range(steps))[0]
    tx = MADE[name](1e-2)
    adopted = adopt(tx, params, state, b1=b1, b2=0.999)
    biases = [f"{layer}/bias" for layer in params]
    check(biases, steps_of(tx, params, adopted.state), steps_of(adam, params, state), rtol=1e-4)


ROOTS = {  # all roots in every step, and no first step without an update: a schedule counts the steps of all blocks
    "shampoo": lambda: precond.shampoo(1e-2, b2=0.999, refresh=1),
    "soap": lambda: precond.soap(1e-2, b2=0.999, refresh=precond.every(1, delay=1)),
    "kl_shampoo": lambda: precond.kl_shampoo(1e-2, refresh=1),
    "kl_soap": lambda: precond.kl_soap(1e-2, refresh=precond.every(1, delay=1)),
    "muon": lambda: precond.muon(1e-2),
}


@pytest.mark.parametrize("name", marked(ROOTS, ("shampoo",)))
@pytest.mark.parametrize("before", ["the same", "adam"])
def test_matrices_begin_anew_as_in_a_fresh_state_and_the_others_go_on(name, before):
    tx, old = ROOTS[name](), parameters()
    new = {"0": parameters()["a"], "z": {"kernel": np.ones((7, 6), np.float32)}}
    grown, first = old | new, tx if before == "the same" else optax.adam(1e-3)
    state = run(first, old, steps=range(30))[0]
    adopted = adopt(tx, grown, state, b1=0.9, b2=0.999)
    paths = ("0/bias", "0/kernel", "z/kernel")
    assert set(adopted.anew) >= set(paths)
    found = steps_of(tx, grown, adopted.state)
    check(paths, found, steps_of(tx, new, tx.init(new)), rtol=2e-3)
    if before == "the same":
        assert len(adopted.kept) == 6
        check(adopted.kept, found, steps_of(tx, old, state), rtol=2e-3)


@pytest.mark.parametrize("name", marked(["shampoo", "soap", "kl_soap"], ("shampoo",)))
def test_until_their_first_turn_new_matrices_take_steps_of_adams_length(name):
    tx, old = MADE[name](1.0), parameters()
    grown = old | {"0": {"kernel": np.ones((12, 8), np.float32)}}
    found = steps_of(tx, grown, adopt(tx, grown, run(tx, old)[0]).state)
    adam = optax.adam(1.0, 0.9 if name != "soap" else 0.95, 0.95, eps=1e-15)
    expected = steps_of(adam, grown, adam.init(grown))
    for x, y in zip(found, expected, strict=True):
        ratio = np.linalg.norm(x["0"]["kernel"]) / np.linalg.norm(y["0"]["kernel"])
        np.testing.assert_allclose(ratio, 1, rtol=0.35)


def test_beside_a_count_of_optax_new_parameters_are_reported():
    tx = precond.shampoo(1e-2, otherwise=optax.scale_by_adam())
    old = parameters()
    state = run(tx, old)[0]
    with pytest.warns(UserWarning, match="'0/bias' starts again beside a count that goes on, as do 6 parameters in"):
        adopted = adopt(tx, old | AT, state)
    assert adopted.uncorrected == tuple(sorted(NEW_PATHS))
    with pytest.warns(UserWarning, match="'0/bias' starts again beside a count that goes on"):
        adopt(optax.adam(1e-3), old | AT, run(optax.adam(1e-3), old)[0])
    assert adopt(tx, old, state).uncorrected == adopt(tx, old, tx.init(old)).uncorrected == ()


def test_counts_follow_their_parameters_through_names_files_and_later_changes():
    tx, old = precond.muon(1e-2, adam_b2=0.999), parameters()
    grown = old | AT
    state = run(tx, grown, adopt(tx, grown, run(tx, old)[0]).state)[0]
    saved = by_path(tx, grown, state)["parameters"]
    place = "0/otherwise/inner_state/inner/count"
    assert [saved[path][place] for path in ("0/bias", "a/bias", "z/scale")] == [4, 8, 4]
    others = {"5": grown["a"], "6": grown["0"]}
    names = {"5": "a", "6": "0"}
    adopted = adopt(tx, others, state, renamed=lambda path: names[path[0]] + path[1:])
    assert (adopted.anew, adopted.partly) == ((), {})
    # In the order of paths: 5/bias, 6/bias, 6/embedding, 6/scale.
    assert adopted.state[0].otherwise.inner_state.inner.count.tolist() == [8, 4, 4, 4]

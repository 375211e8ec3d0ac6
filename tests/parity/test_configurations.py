"""The references one option at a time, against oracles of their equations; and the oracles against the references.

`test_drawn.py` sets many options at once. These say which one is wrong.
"""

import functools
from pathlib import Path

import numpy as np
import pytest

from precond import recipes
from tests.parity import draw, inputs, oracle
from tests.problem import distance, trajectory

pytestmark = pytest.mark.usefixtures("x64")

STEPS = 14
EVERYTHING = ["w", "big", "b", "conv", "t3", "s", "row"]


def follow(tx, reference, names):
    """Assert that the trajectory of each parameter is that of the oracle, called for it alone."""
    params = {k: inputs.params()[k] for k in names}
    grads = inputs.grads(STEPS)
    path = trajectory(tx, params, grads)
    for k, start in params.items():
        expected = reference(start, [g[k] for g in grads])
        assert distance(path[k], expected, start) < 1e-9, k


META = {"b1": 0.9, "b2": 0.95, "eps": 1e-4, "block": 7, "period": 3}


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"b1": 0.0},
        {"b2": 1.0},
        {"b3": 0.81},
        {"bias": False},
        {"drop": True},
        {"start": 5},
        {"exponent": 0.5},
        {"exponent": {2: {0: 0.5, 1: 0}, 3: 0.25}},
        {"kl": True},
        {"gamma": 0.5},
        {"target": 1},
        {"decay": 0.1, "l2": True},
        {"decay": 0.1},
        {"momentum": 0.7, "decay": 0.1},
        {"momentum": 0.7, "dampening": 0.2, "nesterov": True},
        {"graft": ("sgd", 1.0, 0.0), "start": 5},
        {"graft": ("adagrad", 1.0, 1e-6)},
        {"graft": ("rmsprop", 0.9, 1e-6), "b3": 0.81},
        {"graft": ("adam", 0.9, 1e-6), "b1": 0.0, "start": 7},
    ],
    ids=str,
)
def test_meta_shampoo(change):
    given = META | change
    tx = draw.meta_recipe(recipes.meta_shampoo, 0.01, given, draw.SHAMPOO_WORDS)
    follow(tx, functools.partial(oracle.meta, lr=0.01, **given), EVERYTHING)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [{}, {"b2": 1.0}, {"bias": False}, {"drop": True}, {"graft": ("adam", 0.9, 1e-6)}, {"decay": 0.1, "momentum": 0.5}],
    ids=str,
)
def test_meta_soap(change):
    # By then every factor has full rank: of a null space no basis is the right one.
    given = META | {"start": 12} | change
    tx = draw.meta_recipe(recipes.meta_soap, 0.01, given, draw.META_WORDS)
    follow(tx, functools.partial(oracle.meta, lr=0.01, corrected=True, **given), ["w", "conv", "t3", "b", "s"])


GOOGLE = {
    "b1": 0.9, "b2": 0.95, "e_d": 1e-6, "e_m": 1e-4, "block": 7, "start": 4, "period": 3, "graft": "sgd",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"graft": "none"},
        {"graft": "sqrt_n"},
        {"graft": "adagrad"},
        {"graft": "adagrad_normalized"},
        {"graft": "rmsprop", "ema": True},
        {"graft": "rmsprop", "clip": 0.5},
        {"graft": "rmsprop_normalized", "nesterov": False},
        {"b2": 1.0, "graft": "rmsprop"},
        {"every": 2},
        {"period": 1, "start": 0},
        {"decay": 0.1},
        {"decay": 0.1, "decoupled": True},
        {"decoupled_lr": False},
        {"decoupled_lr": False, "decay": 0.1, "decoupled": True},
        {"override": 3},
        {"kind": "input"},
        {"kind": "output"},
        {"merge": 30},
        {"max_dim": 11},
        {"stale": True},
    ],
    ids=str,
)
def test_google_shampoo(change):
    given = GOOGLE | change
    tx = draw.google_recipe(0.01, recipes.google_eigh, given)
    follow(tx, functools.partial(oracle.google, lr=0.01, **given), EVERYTHING)


SOAP = {"b1": 0.9, "b2": 0.95, "eps": 1e-6, "decay": 0.05, "period": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [{}, {"period": 1}, {"b_factor": 0.8}, {"max_dim": 5}, {"bias": False}, {"decay": 0.0}, {"normalized": True}],
    ids=str,
)
def test_official_soap(change):
    given = SOAP | change
    follow(draw.soap_recipe(0.01, given), functools.partial(oracle.soap, lr=0.01, **given), ["conv", "t3", "b"])


def check_golden(name, follows, tolerance=1e-9):
    golden = np.load(Path(__file__).parent / "golden" / f"{name}.npz")
    for k in golden.files:
        w, grads = inputs.params()[k], [g[k] for g in inputs.grads(24)][: len(golden[k])]
        assert distance(follows(w, grads), golden[k], w) < tolerance, (name, k)


def test_the_oracles_follow_the_references():
    """Otherwise what is said of the recipes would show nothing: the golden trajectories, by the oracles."""
    given = {"lr": 0.01, "b1": 0.95, "b2": 0.95, "eps": 1e-8, "decay": 0.01, "period": 3}
    check_golden("soap_official", functools.partial(oracle.soap, **given))
    given = {"lr": 2**-7, "b1": 0.9, "b2": 0.99, "eps": 1e-8, "block": 8, "period": 3, "start": 12, "decay": 0.05}
    check_golden("meta_soap_eigh", functools.partial(oracle.meta, corrected=True, **given))
    given |= {"eps": 1e-6, "period": 4, "start": 4, "graft": ("adam", 0.99, 1e-8)}
    check_golden("meta_shampoo_adam_graft", functools.partial(oracle.meta, **given))
    given = {
        "lr": 0.01, "b1": 0.9, "b2": 0.99, "e_d": 1e-8, "e_m": 1e-6, "block": 8, "start": 5, "period": 4,
        "graft": "rmsprop_normalized", "decay": 0.01, "ema": True,
    }  # fmt: skip
    check_golden("google_shampoo_rmsprop_norm", functools.partial(oracle.google, **given), 1e-8)

"""Configurations of the references for which there is no golden trajectory, against oracles of their equations."""

import numpy as np
import optax
import pytest

import precond
from precond import recipes
from tests.parity import inputs, oracle
from tests.problem import distance, trajectory

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

STEPS = 14


def some(*changes):
    """Every fifth configuration; the others wait for the slow tests."""
    return [pytest.param(c, id=str(c), marks=[pytest.mark.slow] * (i % 5 > 0)) for i, c in enumerate(changes)]


def follow(tx, reference, names, tolerance=1e-9):
    """Assert that the trajectory of each parameter is that of the oracle, called for it alone."""
    params = {k: inputs.params()[k] for k in names}
    grads = inputs.grads(STEPS)
    path = trajectory(tx, params, grads)
    for k, start in params.items():
        expected = reference(start, [g[k] for g in grads])
        assert distance(path[k], expected, start) < tolerance, k


META = {"lr": 0.01, "b1": 0.9, "b2": 0.95, "eps": 1e-4, "block": 7, "period": 3}


def meta_arguments(given):
    """The oracle's arguments in the words of the recipe."""
    words = {
        "block": "max_preconditioner_dim",
        "period": "precondition_frequency",
        "start": "start_preconditioning_step",
        "b3": "beta3",
        "decay": "weight_decay",
        "bias": "bias_correction",
        "eps": "epsilon",
        "kl": "kullback_leibler",
        "exponent": "power",
    }
    rest = {k: v for k, v in given.items() if k not in ("lr", "b1", "b2", "graft", "l2", "corrected")}
    out = {words.get(k, k): v for k, v in rest.items()}
    return out | {"betas": (given["b1"], given["b2"]), "decoupled_weight_decay": not given.get("l2", False)}


def meta_graft(kind, b2, eps, given):
    bias = given.get("bias", True)
    momentum = precond.filtered(given["b1"], given.get("b3"), bias_correction=bias) if given["b1"] else None
    if kind == "sgd":
        return momentum or optax.identity()
    return precond.scale_by_diagonal(b2, eps=eps, bias_correction=kind == "adam", momentum=momentum)


@pytest.mark.parametrize(
    "change",
    some(
        {},
        {"b1": 0.0},
        {"b2": 1.0},
        {"b3": 0.81},
        {"bias": False},
        {"start": 5},
        {"exponent": 0.5},
        {"kl": True},
        {"decay": 0.1, "l2": True},
        {"decay": 0.1},
        {"momentum": 0.7, "decay": 0.1},
        {"momentum": 0.7, "dampening": 0.2, "nesterov": True},
        {"graft": ("sgd", 1.0, 0.0), "start": 5},
        {"graft": ("adagrad", 1.0, 1e-6)},
        {"graft": ("rmsprop", 0.9, 1e-6), "b3": 0.81},
        {"graft": ("adam", 0.9, 1e-6), "b1": 0.0, "start": 7},
    ),
)
def test_meta_shampoo(change):
    given = META | change
    graft = meta_graft(*given["graft"], given) if "graft" in given else None
    tx = recipes.meta_shampoo(given["lr"], grafting=graft, **meta_arguments(given))
    follow(tx, lambda w, g: oracle.meta(w, g, **given), ["w", "big", "b", "conv", "t3", "s", "row"])


@pytest.mark.parametrize(
    "change",
    [{}, {"b2": 1.0}, {"bias": False}, {"graft": ("adam", 0.9, 1e-6)}, {"decay": 0.1, "momentum": 0.5}],
    ids=str,
)
def test_meta_soap(change):
    # By then every factor has full rank: of a null space no basis is the right one.
    given = META | {"start": 12} | change
    graft = meta_graft(*given["graft"], given) if "graft" in given else None
    tx = recipes.meta_soap(given["lr"], grafting=graft, **meta_arguments(given))
    follow(tx, lambda w, g: oracle.meta(w, g, corrected=True, **given), ["w", "conv", "t3", "b", "s"])


GOOGLE = {
    "lr": 0.01, "b1": 0.9, "b2": 0.95, "e_d": 1e-6, "e_m": 1e-4, "block": 7, "start": 4, "period": 3, "graft": "sgd",
}  # fmt: skip


def google_grafting(kind, b2, eps):
    def make():
        decay = 1.0 if kind.startswith("adagrad") else b2
        if kind == "sqrt_n":
            return optax.scale_by_sign()
        diagonal = precond.scale_by_diagonal(decay, eps=eps)
        return optax.chain(precond.normalize(), diagonal) if kind.endswith("normalized") else diagonal

    return {"sgd": optax.identity, "none": None}.get(kind, make)


@pytest.mark.parametrize(
    "change",
    some(
        {},
        {"graft": "none"},
        {"graft": "sqrt_n"},
        {"graft": "adagrad"},
        {"graft": "adagrad_normalized"},
        {"graft": "rmsprop", "ema": True},
        {"graft": "rmsprop_normalized", "nesterov": False},
        {"b2": 1.0, "graft": "rmsprop"},
        {"every": 2},
        {"period": 1, "start": 0},
        {"decay": 0.1},
        {"decay": 0.1, "decoupled": True},
        {"override": 3},
        {"axes": [-1]},
        {"max_dim": 11},
    ),
)
def test_google_shampoo(change):
    given = GOOGLE | change
    tx = recipes.google_shampoo(
        given["lr"],
        beta1=given["b1"],
        beta2=given["b2"],
        matrix_epsilon=given["e_m"],
        block_size=given["block"],
        grafting=google_grafting(given["graft"], given["b2"], given["e_d"]),
        start_preconditioning_step=given["start"],
        preconditioning_compute_steps=given["period"],
        statistics_compute_steps=given.get("every", 1),
        weight_decay=given.get("decay", 0.0),
        decoupled_weight_decay=given.get("decoupled", False),
        exponent_override=given.get("override", 0),
        axes=given.get("axes"),
        skip_preconditioning_dim_size_gt=given.get("max_dim", 4096),
        nesterov=given.get("nesterov", True),
        moving_average_for_momentum=given.get("ema", False),
        merge_small_dims_block_size=0,
    )
    positive = given | ({"axes": [1]} if "axes" in given else {})
    names = ["w", "big"] if "axes" in given else ["w", "big", "b", "conv", "t3", "s", "row"]
    follow(tx, lambda w, g: oracle.google(w, g, **positive), names)


def test_google_with_newton_agrees_with_its_eigh():
    names, given = ["w", "b", "t3"], GOOGLE | {"e_m": 1e-3}
    tx = recipes.google_shampoo(
        given["lr"],
        beta2=given["b2"],
        matrix_epsilon=given["e_m"],
        block_size=given["block"],
        start_preconditioning_step=given["start"],
        preconditioning_compute_steps=given["period"],
        merge_small_dims_block_size=0,
        method=precond.newton(iterations=100, tolerance=1e-12),
    )
    follow(tx, lambda w, g: oracle.google(w, g, **given), names, tolerance=1e-6)


def test_google_merges_dimensions():
    params, grads = {"conv": inputs.params()["conv"]}, inputs.grads(STEPS)
    tx = recipes.google_shampoo(0.01, block_size=7, merge_small_dims_block_size=30, matrix_epsilon=1e-4)
    path = trajectory(tx, params, grads)["conv"].reshape(-1, 30, 6)
    given = GOOGLE | {"b2": 0.999, "start": 5, "period": 1, "e_d": 1e-10}
    expected = oracle.google(params["conv"].reshape(30, 6), [g["conv"].reshape(30, 6) for g in grads], **given)
    assert distance(path, expected, params["conv"].reshape(30, 6)) < 1e-9


SOAP = {"lr": 0.01, "b1": 0.9, "b2": 0.95, "eps": 1e-6, "decay": 0.05, "period": 2}


@pytest.mark.parametrize(
    "change",
    [{}, {"period": 1}, {"b_factor": 0.8}, {"max_dim": 5}, {"bias": False}, {"decay": 0.0}],
    ids=str,
)
def test_official_soap(change):
    given = SOAP | change
    tx = recipes.official_soap(
        given["lr"],
        b1=given["b1"],
        b2=given["b2"],
        shampoo_beta=given.get("b_factor"),
        eps=given["eps"],
        weight_decay=given["decay"],
        precondition_frequency=given["period"],
        max_precond_dim=given.get("max_dim", 10000),
        bias_correction=given.get("bias", True),
    )
    follow(tx, lambda w, g: oracle.soap(w, g, **given), ["conv", "t3", "b"])


def test_the_oracles_follow_the_references():
    """Otherwise the tests above would show nothing: the golden trajectories, by the oracles."""
    golden = np.load(__file__.replace("test_configurations.py", "golden/soap_official.npz"))
    given = {"lr": 0.01, "b1": 0.95, "b2": 0.95, "eps": 1e-8, "decay": 0.01, "period": 3}
    for k in golden.files:
        w, grads = inputs.params()[k], [g[k] for g in inputs.grads(24)][: len(golden[k])]
        assert distance(oracle.soap(w, grads, **given), golden[k], w) < 1e-9
    golden = np.load(__file__.replace("test_configurations.py", "golden/meta_soap_eigh.npz"))
    given = {"lr": 2**-7, "b1": 0.9, "b2": 0.99, "eps": 1e-8, "block": 8, "period": 3, "start": 12, "decay": 0.05}
    for k in golden.files:
        w, grads = inputs.params()[k], [g[k] for g in inputs.grads(24)][: len(golden[k])]
        assert distance(oracle.meta(w, grads, corrected=True, **given), golden[k], w) < 1e-9
    golden = np.load(__file__.replace("test_configurations.py", "golden/google_shampoo_rmsprop_norm.npz"))
    given = {
        "lr": 0.01, "b1": 0.9, "b2": 0.99, "e_d": 1e-8, "e_m": 1e-6, "block": 8, "start": 5, "period": 4,
        "graft": "rmsprop_normalized", "decay": 0.01, "ema": True,
    }  # fmt: skip
    for k in golden.files:
        w, grads = inputs.params()[k], [g[k] for g in inputs.grads(24)][: len(golden[k])]
        assert distance(oracle.google(w, grads, **given), golden[k], w) < 1e-8

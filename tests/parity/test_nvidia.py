"""Every option of NVIDIA's Muon by the trajectories of their code, and `ReklsV3` by its dense definition."""

from pathlib import Path

import numpy as np
import optax
import pytest

from precond import orthogonal, recipes
from tests.parity import inputs
from tests.problem import distance, gradients, trajectory

pytestmark = pytest.mark.usefixtures("x64")

RATE = 2**-5
GOLDEN = np.load(Path(__file__).parent / "golden" / "nvidia_muon_options.npz")


def coefficients(name, steps):
    return recipes.nvidia_muon(RATE, method=orthogonal.newton_schulz(recipes.nvidia_coefficients(name, steps)))


def scaled(scale):
    return recipes.nvidia_muon(RATE, nesterov=True, scale=scale, extra_scale_factor=0.2)


def decayed(how):
    return recipes.nvidia_muon(RATE, momentum=0.9, weight_decay=0.05, weight_decay_method=how)


def adaptive(moment2):
    scale = orthogonal.unit_rms_norm(outputs=0)
    tail = {"scale": scale, "extra_scale_factor": 0.5, "moment2": moment2}
    return recipes.nvidia_muon(RATE, weight_decay=0.05, nesterov=True, **tail)


OPTIONS = {
    "simple 5": lambda: coefficients("simple", 5),
    "quintic 7": lambda: coefficients("quintic", 7),
    "polar_express 5": lambda: coefficients("polar_express", 5),
    "polar_express 9": lambda: coefficients("polar_express", 9),
    "cans 5": lambda: coefficients("cans", 5),
    "cans 7": lambda: coefficients("cans", 7),
    "aol 5": lambda: coefficients("aol", 5),
    "deepseekv4 5": lambda: coefficients("deepseekv4", 5),
    "deepseekv4 11": lambda: coefficients("deepseekv4", 11),
    "cubic5 5": lambda: coefficients("cubic5", 5),
    "shape_scaling": lambda: scaled(orthogonal.width(outputs=0)),
    "spectral": lambda: scaled(None),
    "unit_rms_norm": lambda: scaled(orthogonal.unit_rms_norm(outputs=0)),
    "independent": lambda: decayed("independent"),
    "l2": lambda: decayed("l2"),
    "palm": lambda: decayed("palm"),
    "adamuon": lambda: adaptive(optax.scale_by_rms(0.9, 1e-8, eps_in_sqrt=False)),
    "normuon": lambda: adaptive(recipes.nvidia_normuon(0.9)),
}

LIKE_ANOTHER = ("polar_express 9", "cans 7", "deepseekv4 11", "unit_rms_norm", "spectral", "l2")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LIKE_ANOTHER)) for n in OPTIONS])
def test_muon_follows_theirs(name):
    expected = {k: GOLDEN[f"{name}/{k}"] for k in ("w", "big")}
    corner = {k: tuple(slice(d) for d in path.shape[1:]) for k, path in expected.items()}
    start = {k: inputs.params()[k][c] for k, c in corner.items()}
    grads = [{k: g[k][c] for k, c in corner.items()} for g in inputs.grads(8)]
    path = trajectory(OPTIONS[name](), start, grads)
    for k, w in start.items():
        assert distance(path[k], expected[k], w) < 1e-10, k


def test_every_option_of_theirs_has_a_trajectory():
    assert {name.split("/")[0] for name in GOLDEN.files} == set(OPTIONS)


def test_a_rate_that_falls_decays_by_its_square():
    rate, w, g = optax.linear_schedule(1.0, 0.0, 4), {"w": np.ones((2, 2))}, {"w": np.zeros((2, 2))}
    path = trajectory(recipes.nvidia_muon(rate, weight_decay=0.1, weight_decay_method="palm"), w, [g] * 3)["w"]
    expected = np.cumprod([1 - 0.1 * r**2 for r in (1.0, 0.75, 0.5)])
    np.testing.assert_allclose(path[:, 0, 0], expected, rtol=1e-7)  # Optax makes schedules in float32


def rekls(start, grads, *, rate, betas, shampoo_beta, eps, decay):
    """The definition: KL statistics, `eigh` of them in every step, and Adam between the bases."""
    w, m, v, path = start.copy(), np.zeros_like(start), np.zeros_like(start), []
    sides = [(np.zeros((d, d)), np.eye(d), np.zeros(d)) for d in start.shape]  # factor, basis, eigenvalues
    for t, g in enumerate(grads, start=1):
        weight = (1 - shampoo_beta) / (1 - shampoo_beta**t)
        whitened = [q @ np.diag(1 / np.maximum(values, eps)) @ q.T for _, q, values in sides]
        seen = g @ whitened[1] @ g.T / g.shape[1], g.T @ whitened[0] @ g / g.shape[0]
        factors = [(1 - weight) * f + weight * s for (f, _, _), s in zip(sides, seen, strict=True)]
        old = [q for _, q, _ in sides]
        sides = [(f, *np.linalg.eigh(f)[::-1]) for f in factors]
        (_, left, _), (_, right, _) = sides
        # The momentum turns with the bases, and the second moment does not.
        m = left.T @ old[0] @ m @ old[1].T @ right
        projected = left.T @ g @ right
        m = betas[0] * m + (1 - betas[0]) * projected
        v = betas[1] * v + (1 - betas[1]) * projected**2
        denominator = np.sqrt(v / (1 - betas[1] ** t)) + eps
        w = w - rate * decay * w - rate * left @ (m / (1 - betas[0] ** t) / denominator) @ right.T
        path.append(w)
    return np.stack(path)


@pytest.mark.parametrize(
    "given",
    [
        {"betas": (0.9, 0.95), "shampoo_beta": 0.95, "eps": 1e-3, "decay": 0.05},
        {"betas": (0.95, 0.99), "shampoo_beta": 0.8, "eps": 1e-2, "decay": 0.0},
    ],
)
def test_rekls_follows_its_definition(given):
    start, *grads = [g["w"] for g in gradients({"w": (6, 6)}, 13)]
    ours = {k: x for k, x in given.items() if k != "decay"} | {"weight_decay": given["decay"]}
    tx = recipes.nvidia_kl_soap(0.01, method=recipes.nvidia_eigh(), **ours)
    path = trajectory(tx, {"w": start}, [{"w": g} for g in grads])["w"]
    assert distance(path, rekls(start, grads, rate=0.01, **given), start) < 1e-9


def test_scalars_get_adam_with_the_betas_and_the_eps_of_matrices():
    shapes = {"scale": ()}
    start, grads = gradients(shapes, 1, seed=5)[0], gradients(shapes, 6)
    ours = recipes.nvidia_kl_soap(0.01, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.05)
    theirs = optax.adamw(0.01, 0.8, 0.9, eps=1e-3, weight_decay=0.05)
    found, expected = trajectory(ours, start, grads), trajectory(theirs, start, grads)
    for k, w in start.items():
        assert distance(found[k], expected[k], w) < 1e-12, k


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: recipes.nvidia_coefficients("cubic5", 4), ValueError, "num_ns_steps=4"),
        (lambda: recipes.nvidia_coefficients("jordan"), ValueError, "coefficient_type='jordan'.*'simple'"),
        (lambda: recipes.nvidia_muon(0.1, weight_decay_method="L2"), ValueError, "weight_decay_method='L2'.*'palm'"),
        (lambda: recipes.nvidia_muon(0.1, momentum=1.0), ValueError, "momentum=1.0"),
        (lambda: recipes.nvidia_muon(0.1, extra_scale_factor=-1.0), ValueError, "extra_scale_factor=-1.0"),
        (lambda: recipes.nvidia_muon(0.1, moment2="normuon"), TypeError, "moment2='normuon'"),
        (lambda: recipes.nvidia_muon(0.1, scale="spectral"), TypeError, "scale='spectral'"),
        (lambda: recipes.nvidia_normuon(beta2=1.0), ValueError, "beta2=1.0"),
        (lambda: orthogonal.unit_rms_norm(outputs=2), ValueError, "outputs=2"),
    ],
)
def test_wrong_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()

"""Random configurations of the references: the recipes follow the oracles in whatever can be set."""

import pytest

from tests.parity import draw
from tests.problem import distance, gradients, trajectory

pytestmark = pytest.mark.usefixtures("x64")

# Chosen so that together, and with what follows trajectories of the references, they have every option.
QUICK = {
    "google": [0, 6, 8], "tearfree": [3], "meta_shampoo": [0, 3, 5], "meta_soap": [3, 7], "meta_descent": [0, 7],
    "soap": [0, 1],
}  # fmt: skip
SLOW = 25
CASES = [
    pytest.param(family, seed, marks=[pytest.mark.slow] * (seed not in QUICK[family]))
    for family in draw.FAMILIES
    for seed in range(SLOW)
]


def error(family, seed):
    """The largest error of any parameter, in units of its largest move."""
    drawn = draw.FAMILIES[family](seed)
    start, grads = gradients(drawn.shapes, 1, seed + 100)[0], gradients(drawn.shapes, drawn.steps, seed)
    path = trajectory(drawn.tx, start, grads)
    return max(distance(path[k], drawn.reference(w, [g[k] for g in grads]), w) for k, w in start.items())


@pytest.mark.parametrize(("family", "seed"), CASES)
def test_a_recipe_follows_its_reference(family, seed):
    assert error(family, seed) < (1e-8 if family == "google" else 1e-9)


def test_the_official_soap_decomposes_at_the_first_step_alone():
    # A factor that is zero by then follows by QR decompositions from the identity, as in the official code.
    drawn = draw.FAMILIES["soap"](0)
    start, grads = gradients(drawn.shapes, 1, 100)[0], gradients(drawn.shapes, drawn.steps, 0)
    grads[0] = {name: 0 * g for name, g in grads[0].items()}
    path = trajectory(drawn.tx, start, grads)
    for k, w in start.items():
        assert distance(path[k], drawn.reference(w, [g[k] for g in grads]), w) < 1e-9

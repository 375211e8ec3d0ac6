"""Optax's Schedule-Free around every alias, and primal averaging behind it, against the sequences that define them."""

import numpy as np
import optax
import pytest

from precond import recipes
from tests import catalog
from tests.conformance import harness
from tests.problem import distance, gradients, trajectory

pytestmark = pytest.mark.usefixtures("x64")

SHAPES = {"kernel": (6, 5), "bias": (5,)}
START, *GRADS = gradients(SHAPES, 7)
QUICK = ("soap", "muon")
LAYERED = tuple(case._replace(kwargs={"learning_rate": 1.0}) for case in catalog.LAYERED)  # up to their bound
CASES = (*catalog.DEFAULTS, *LAYERED, *catalog.WHOLE, catalog.find("adascale_shampoo"))


def iterates(case):
    """What the alias alone makes of the gradients: both averages are of this sequence."""
    return trajectory(case.make(), START, GRADS)


@harness.each(CASES, QUICK)
def test_schedule_free_trains_between_the_iterates_and_their_mean(case):
    path, z = trajectory(optax.contrib.schedule_free(case.make(), 0.01, b1=0.8), START, GRADS), iterates(case)
    for k, start in START.items():
        mean = np.cumsum(z[k], axis=0) / np.arange(1, len(GRADS) + 1).reshape(-1, *[1] * start.ndim)
        assert distance(path[k], 0.8 * mean + 0.2 * z[k], start) < 1e-6  # Optax keeps the sum of its weights in float32


@harness.each(CASES, QUICK)
def test_primal_averaging_trains_between_the_iterates_and_their_moving_average(case):
    path, z = trajectory(optax.chain(case.make(), recipes.primal_averaging(0.8, 0.7)), START, GRADS), iterates(case)
    for k, x in START.items():
        expected = []
        for iterate in z[k]:
            x = 0.7 * x + 0.3 * iterate
            expected.append(0.8 * x + 0.2 * iterate)
        assert distance(path[k], np.stack(expected), START[k]) < 1e-12

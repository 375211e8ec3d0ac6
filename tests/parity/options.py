"""Trajectories of the reference implementations' options, and how one is compared with ours."""

from pathlib import Path

import numpy as np

from tests.problem import distance, trajectory

INPUTS = np.load(Path(__file__).parent / "golden" / "options_inputs.npz")


def assert_followed(tx, golden, option, names, bound):
    """Assert that the trajectories of these parameters, if the option has them, are those of the reference."""
    expected = {k: golden[f"{option}/{k}"] for k in names if f"{option}/{k}" in golden.files}
    steps = len(next(iter(expected.values())))
    start = {k: INPUTS[f"start/{k}"] for k in expected}
    grads = [{k: INPUTS[f"gradients/{k}"][t] for k in expected} for t in range(steps)]
    path = trajectory(tx, start, grads)
    for k, w in start.items():
        assert distance(path[k], expected[k], w) < bound, k

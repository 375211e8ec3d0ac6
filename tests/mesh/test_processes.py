"""Several processes, launched as a user would: the same run as in one, and one that loses a process goes on."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "multi_process.py"
pytestmark = pytest.mark.timeout(300)

# In float64. The gradient's sum is rounded in another order, and roots of factors damped by 1e-6 make a thousand of it.
TOLERANCE = 1e-10


def launch(directory, processes, *arguments):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_ENABLE_X64": "1"}
    command = [sys.executable, EXAMPLE, "--processes", str(processes), "--directory", directory, *arguments]
    return subprocess.run(command, env=environment, timeout=280, capture_output=True, text=True, check=False)


def parameters(directory):
    with np.load(directory / "parameters.npz") as saved:
        return [saved[name] for name in saved.files]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    directory = tmp_path_factory.mktemp("alone")
    run = launch(directory, 1)
    assert run.returncode == 0, run.stderr
    return parameters(directory)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_train_as_one(processes, alone, tmp_path):
    run = launch(tmp_path, processes)
    assert f"{processes} processes, steps 0 to 20, 8 devices" in run.stdout, run.stderr
    for a, b in zip(parameters(tmp_path), alone, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_a_run_that_lost_a_process_goes_on_from_its_checkpoint(alone, tmp_path):
    run = launch(tmp_path, 2, "--die-at", "12")
    assert run.returncode == 1
    assert "process 1 of 2 failed" in run.stdout
    assert not (tmp_path / "parameters.npz").exists()
    run = launch(tmp_path, 2)
    assert "2 processes, steps " in run.stdout, run.stderr
    assert "steps 0 to" not in run.stdout
    for a, b in zip(parameters(tmp_path), alone, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE)
    # And on another number of processes: what is saved belongs to no mesh.
    run = launch(tmp_path, 1, "--steps", "25")
    assert "1 processes, steps 20 to 25" in run.stdout, run.stderr

"""Two processes with two devices each train as one device does."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.large_batches import one_of_two_processes

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")


@pytest.mark.slow
def test_two_processes(tmp_path):
    root = Path(__file__).parents[2]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "tests.large_batches.one_of_two_processes", port]
    environment = os.environ | {"PYTHONPATH": str(root)}
    both = [subprocess.Popen([*command, i, tmp_path], cwd=root, env=environment) for i in "01"]
    assert [process.wait(timeout=400) for process in both] == [0, 0]
    for name, (tests, *_, every) in one_of_two_processes.RUNS.items():
        end = np.load(tmp_path / f"{name}.npz")
        treedef = jax.tree.structure(tests.network())
        params = treedef.unflatten([end[f"arr_{i}"] for i in range(treedef.num_leaves)])
        tests.assert_as_on_one_device((params, end["gains"]), every)

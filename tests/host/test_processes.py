"""Two processes, each of which refreshes the roots of its own blocks, train as one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.host import runs

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")


@pytest.mark.slow
def test_each_process_refreshes_the_roots_of_its_own_blocks(tmp_path):
    root = Path(__file__).parents[2]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "tests.host.one_of_two_processes", port]
    environment = os.environ | {"PYTHONPATH": str(root)}
    both = [subprocess.Popen([*command, i, tmp_path], cwd=root, env=environment) for i in "01"]
    assert [process.wait(timeout=250) for process in both] == [0, 0]
    path, _ = runs.whole(runs.shampoo(), runs.gradients())
    first, second = (dict(np.load(tmp_path / f"{i}.npz")) for i in "01")
    # Eight blocks with what pads them, two factors each, half of them a process's, at every boundary.
    assert int(first.pop("tasks")) == int(second.pop("tasks")) == 8 * (runs.STEPS // runs.N)
    for found in (first, second):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), found, path[-1])

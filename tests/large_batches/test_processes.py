"""Two processes with two devices each train as one device does."""

import jax
import numpy as np
import pytest

from tests.large_batches import one_of_two_processes
from tests.processes import run_two

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.slow
def test_two_processes(tmp_path):
    run_two(one_of_two_processes, tmp_path, timeout=400)
    for name, (tests, *_, every) in one_of_two_processes.RUNS.items():
        end = np.load(tmp_path / f"{name}.npz")
        treedef = jax.tree.structure(tests.network())
        params = treedef.unflatten([end[f"arr_{i}"] for i in range(treedef.num_leaves)])
        tests.assert_as_on_one_device((params, end["gains"]), every)

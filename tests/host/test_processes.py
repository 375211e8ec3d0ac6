"""Two processes, each of which refreshes the roots of its own blocks, train as one."""

import chex
import numpy as np
import pytest

from tests.host import one_of_two_processes, runs
from tests.processes import run_two

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.slow
def test_each_process_refreshes_the_roots_of_its_own_blocks(tmp_path):
    run_two(one_of_two_processes, tmp_path, timeout=250)
    path, _ = runs.whole(runs.shampoo(), runs.gradients())
    first, second = (dict(np.load(tmp_path / f"{i}.npz")) for i in "01")
    # Eight blocks with what pads them, two factors each, half of them a process's, at every boundary.
    assert int(first.pop("tasks")) == int(second.pop("tasks")) == 8 * (runs.STEPS // runs.N)
    for found in (first, second):
        chex.assert_trees_all_close(found, path[-1], rtol=0, atol=1e-12)

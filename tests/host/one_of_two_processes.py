"""One process of two, with two devices each, whose host refreshes the roots of its own devices' blocks.

python -m tests.host.one_of_two_processes PORT PROCESS FOLDER
"""

import sys
from pathlib import Path

import jax
import numpy as np

import precond
from tests.host import runs
from tests.processes import everywhere, joined


class Counting(runs.ThreadPoolExecutor):
    """It counts its tasks."""

    asked = 0

    def submit(self, fn, /, *args, **kwargs):
        self.asked += 1
        return super().submit(fn, *args, **kwargs)


def main(port, process, folder):
    mesh = joined(port, process)
    tx, pool = runs.shampoo(axis="data"), Counting(1)
    params, step = everywhere(runs.params_of(), mesh), runs.stepper(tx)
    state = jax.jit(tx.init)(params)
    with precond.host_refresh(tx, params, workers=pool) as refresh:
        for g in runs.gradients():
            params, state = step(params, refresh(state), everywhere(g, mesh))
    np.savez(Path(folder) / f"{process}.npz", tasks=pool.asked, **jax.tree.map(np.asarray, params))
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])

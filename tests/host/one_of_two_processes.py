"""One process of two, with two devices each, whose host refreshes the roots of its own devices' blocks.

python -m tests.host.one_of_two_processes PORT PROCESS FOLDER
"""

import os
import sys
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import precond
from tests.host import runs


class Counting(runs.ThreadPoolExecutor):
    """It counts its tasks."""

    asked = 0

    def submit(self, fn, /, *args, **kwargs):
        self.asked += 1
        return super().submit(fn, *args, **kwargs)


def main(port, process, folder):
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_enable_x64", True)
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    def everywhere(tree):
        whole = NamedSharding(mesh, PartitionSpec())
        return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, whole, lambda i: np.asarray(x)[i]), tree)

    tx, pool = runs.shampoo(axis="data"), Counting(1)
    params, step = everywhere(runs.params_of()), runs.stepper(tx)
    state = jax.jit(tx.init)(params)
    with precond.host_refresh(tx, params, workers=pool) as refresh:
        for g in runs.gradients():
            params, state = step(params, refresh(state), everywhere(g))
    np.savez(Path(folder) / f"{process}.npz", tasks=pool.asked, **jax.tree.map(np.asarray, params))
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])

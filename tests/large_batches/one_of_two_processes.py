"""One process of two with two devices each, which train together: AdaScale around Shampoo, accumulated.

python -m tests.large_batches.one_of_two_processes PORT PROCESS OUTPUT
"""

import os
import sys

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import jax
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import precond
from precond.replicas import gradients, over_groups
from tests.large_batches import test_accumulate as shared


def main(port, process, output):
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_enable_x64", True)
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    def everywhere(x, spec):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, jax.NamedSharding(mesh, spec), lambda index: x[index])

    tx = precond.accumulate(shared.shampoo(), 2)
    step = jax.jit(shared.one_step(over_groups(gradients(shared.loss), shared.SCALE // 2), tx))
    params = jax.tree.map(lambda p: everywhere(p, P()), shared.network())
    state, gains = jax.jit(tx.init)(params), []
    for batch in shared.halves():
        params, state = step(params, state, jax.tree.map(lambda x: everywhere(x, P("data")), batch))
        gains.append(float(state.inner[1].gain))
    if process == 0:
        np.savez(output, gains=gains, **{name: np.asarray(p) for name, p in params.items()})
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])

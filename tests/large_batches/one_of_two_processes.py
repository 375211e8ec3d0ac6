"""One process of two, with two devices each, that train together: AdaScale around Shampoo and K-FAC.

python -m tests.large_batches.one_of_two_processes PORT PROCESS FOLDER
"""

import sys
from pathlib import Path

import jax
import numpy as np
import optax
from jax.sharding import PartitionSpec

import precond
from precond.replicas import gradients, gradients_by, over_groups
from tests.large_batches import test_accumulate as shampoo
from tests.large_batches import test_with_kfac as kfac
from tests.processes import everywhere, joined

RUNS = {
    "shampoo": (shampoo, gradients(shampoo.loss), shampoo.shampoo, shampoo.data, 1),
    "shampoo_accumulated": (
        shampoo,
        gradients(shampoo.loss),
        lambda: precond.accumulate(shampoo.shampoo(), 2),
        shampoo.halves,
        2,
    ),
    "kfac": (kfac, gradients_by(kfac.with_factors), kfac.kfac, kfac.data, 1),
    "kfac_accumulated": (kfac, gradients_by(kfac.with_factors), kfac.accumulated, kfac.halves, 2),
}
"""The tests whose problem it is, the gradient, the optimizer, its batches, and how many of them are a step."""


def run(mesh, tests, f, make, batches, every):
    tx = make()
    step = jax.jit(tests.one_step(over_groups(f, tests.SCALE // every), tx))
    params = everywhere(tests.network(), mesh)
    state, gains = jax.jit(tx.init)(params), []
    for batch in batches():
        params, state = step(params, state, everywhere(batch, mesh, PartitionSpec("data")))
        gains.append(float(optax.tree.get(state, "gain")))
    return jax.tree.leaves(params), gains


def main(port, process, folder):
    mesh = joined(port, process)
    for name, case in RUNS.items():
        params, gains = run(mesh, *case)
        if process == 0:
            np.savez(Path(folder) / f"{name}.npz", *params, gains=gains)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])

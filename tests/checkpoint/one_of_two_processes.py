"""One process of two, with two devices each, that goes on with a run of eight devices and saves it again.

python -m tests.checkpoint.one_of_two_processes PORT PROCESS FOLDER
"""

import sys
from pathlib import Path

import jax

from tests.processes import everywhere, joined


def main(port, process, folder):
    mesh = joined(port, process)
    from tests.checkpoint import test_topologies as runs  # which imports this module

    step, *fresh = runs.trainer(runs.OPTIMIZERS["shampoo"](), mesh, everywhere)
    params, state = runs.restore(Path(folder) / "run", *fresh)
    params, state = runs.go_on(step, params, state, mesh, runs.SAVED, runs.AGAIN, everywhere)
    runs.save(Path(folder) / "again", params, state)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])

"""Several processes train one model, each with its share of the optimizer; a run that lost one goes on where it stood.

    python examples/multi_process.py --processes 2
    python examples/multi_process.py --processes 2 --die-at 12    # process 1 dies; say it again without: it goes on

Here all processes are started on this machine, and talk over Gloo. On a cluster every host runs what `train` does after
`jax.distributed.initialize()`, which there needs no arguments. Nothing else knows of processes: the mesh spans the
devices of all of them, and `axis="data"` divides blocks, roots and their state over it.
"""

import argparse
import itertools
import os
import pathlib
import socket
import subprocess
import sys
import time

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before JAX: processes share the cores

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import precond

WIDTHS, BATCH, SAVE_EVERY = (24, 48, 48, 8), 32, 5


def parameters() -> list[np.ndarray]:
    """A network of dense layers, the same in every process."""
    rng = np.random.default_rng(0)
    shapes = itertools.pairwise(WIDTHS)
    return [(rng.standard_normal(s) / np.sqrt(s[0])).astype(jnp.float_) for s in shapes]


def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
    """A function of the step alone, so that a run that goes on sees what it would have seen."""
    x = np.random.default_rng(step).standard_normal((BATCH, WIDTHS[0])).astype(jnp.float_)
    return x, np.sin(x[:, : WIDTHS[-1]])


def loss(layers: list[jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean squared error."""
    for w in layers[:-1]:
        x = jnp.tanh(x @ w)
    return jnp.mean((x @ layers[-1] - y) ** 2)


def whole(tree: list[np.ndarray], mesh: jax.sharding.Mesh, spec: P) -> list[jax.Array]:
    """Arrays over the devices of all processes, each of which has all the data here."""
    return [jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda i, x=x: x[i]) for x in tree]


def train(directory: pathlib.Path, steps: int, die_at: int | None) -> None:
    """What every process runs."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    tx = precond.shampoo(0.01, block_size=16, refresh=precond.every(4, stagger=True), axis="data")

    @jax.jit
    def step(layers, state, x, y):
        updates, state = tx.update(jax.grad(loss)(layers, x, y), state, layers)
        return optax.apply_updates(layers, updates), state

    with jax.set_mesh(mesh), ocp.CheckpointManager(directory) as manager:
        layers = whole(parameters(), mesh, P())
        state, start = jax.jit(tx.init)(layers), manager.latest_step() or 0
        if start:
            target = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), (layers, state)
            )
            layers, state = manager.restore(start, args=ocp.args.StandardRestore(target))
        for i in range(start, steps):
            if i == die_at and jax.process_index() == jax.process_count() - 1:
                os._exit(1)
            layers, state = step(layers, state, *whole(batch(i), mesh, P("data")))
            if (i + 1) % SAVE_EVERY == 0 or i + 1 == steps:
                manager.save(i + 1, args=ocp.args.StandardSave((layers, state)))
        manager.wait_until_finished()
        final = multihost_utils.process_allgather(layers, tiled=True)
    if jax.process_index() == 0:
        np.savez(directory / "parameters.npz", *final)
        print(f"{jax.process_count()} processes, steps {start} to {steps}, {jax.device_count()} devices", flush=True)


def launch(processes: int, arguments: list[str]) -> int:
    """Start a process for each worker; where one fails, end the others, which would wait for it."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    workers = [
        subprocess.Popen([sys.executable, __file__, *arguments, "--worker", str(i), "--address", address])
        for i in range(processes)
    ]
    try:
        while any(w.poll() is None for w in workers):
            failed = [i for i, w in enumerate(workers) if w.poll()]
            if failed:
                print(
                    f"process {failed[0]} of {processes} failed: run the same again to go on from the last checkpoint"
                )
                return 1
            time.sleep(0.1)
        return max(abs(w.returncode) for w in workers)
    finally:
        for w in workers:
            w.kill()
            w.wait()


def main() -> None:
    """Parse the command line; launch, or be one of those launched."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--devices", type=int, default=8, help="of all processes together")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--directory", type=pathlib.Path, default=pathlib.Path("multi_process_run"))
    parser.add_argument("--die-at", type=int, help="the step before which the last process dies")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is None:
        sys.exit(launch(options.processes, sys.argv[1:]))
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", options.devices // options.processes)
    if options.processes > 1:
        jax.distributed.initialize(options.address, options.processes, options.worker)
    train(options.directory.resolve(), options.steps, options.die_at)


if __name__ == "__main__":
    main()

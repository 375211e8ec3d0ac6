"""Two processes with two devices each: how a test starts them, and how each begins."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def run_two(module, folder, timeout):
    """`python -m module PORT PROCESS FOLDER`, twice at the same time; both must end well."""
    root = Path(__file__).parents[1]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module.__name__, port]
    both = [subprocess.Popen([*command, i, folder], cwd=root, env=environment) for i in "01"]
    assert [process.wait(timeout=timeout) for process in both] == [0, 0]


def joined(port, process):
    """In one of them: the mesh over the devices of both."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_enable_x64", True)
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    return jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))


def everywhere(tree, mesh, spec=None):
    """The same arrays, which each process has whole, over the devices of both."""
    sharding = NamedSharding(mesh, PartitionSpec() if spec is None else spec)
    numbers = jax.tree.map(jax.device_get, tree)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda i: x[i]), numbers)

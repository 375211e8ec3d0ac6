"""Batches for LAPACK that run at the same time would wait for each other for ever on the CPU (jaxlib 0.10)."""

import os
import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
    import jax, jax.numpy as jnp, numpy as np, optax
    import precond

    jax.config.update("jax_num_cpu_devices", %d)
    rng = np.random.default_rng(0)
    sizes = [40, 56, 72, 88]
    params = {f"p{n}": jnp.asarray(rng.standard_normal((6, n, n)), jnp.float32) for n in sizes}
    tx = %s
    if jax.device_count() > 1:
        mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        params = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    update = jax.jit(tx.update)
    state = jax.jit(tx.init)(params)
    for _ in range(30):
        updates, state = update(params, state)
    jax.block_until_ready(state)
    print(all(bool(jnp.isfinite(u).all()) for u in updates.values()))
"""


EIGH = "precond.shampoo(1e-3, refresh=1, method=precond.eigh(), VIEWS)"
TURNS = "precond.shampoo(1e-3, refresh=precond.every(2, stagger=True), VIEWS)"
SOAP = "precond.soap(1e-3, refresh=precond.every(1, delay=1, warmup=1), VIEWS)"
GROUPS = "lambda tree: {name: name > 'p56' for name in tree}"


@pytest.mark.parametrize(
    ("optimizer", "devices"),
    [
        pytest.param(EIGH, 1, marks=pytest.mark.slow),
        pytest.param(TURNS, 1, marks=pytest.mark.slow),
        pytest.param(SOAP, 1, marks=pytest.mark.slow),
        pytest.param(SOAP.replace("VIEWS", "method=precond.roots.cholesky_qr(), VIEWS"), 1, marks=pytest.mark.slow),
        pytest.param(SOAP.replace("VIEWS", "method=precond.roots.rotations(), VIEWS"), 1, marks=pytest.mark.slow),
        # Two optimizers that know nothing of each other; devices that share the threads.
        pytest.param(f"optax.partition({{True: {EIGH}, False: {TURNS}}}, {GROUPS})", 1, marks=pytest.mark.slow),
        pytest.param(
            EIGH.replace("VIEWS", "VIEWS, axis=precond.sharded('data', multiple=2)"), 2, marks=pytest.mark.slow
        ),
        (TURNS.replace("VIEWS", "VIEWS, axis=precond.sharded('data', multiple=4)"), 4),
    ],
)
def test_stacks_of_many_sizes_do_not_wait_for_each_other(optimizer, devices):
    program = PROGRAM % (devices, optimizer.replace("VIEWS", "views=lambda path, p: precond.View((1, 2))"))
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"  # which operations run at the same time stays as it is
    # A process of its own, where a hang ends with it.
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=environment,
        timeout=150,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.strip() == "True", run.stderr

"""On the CPU no two batched LAPACK calls may run at once: they wait for each other for ever (jaxlib 0.10)."""

import os
import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
    import jax, jax.numpy as jnp, numpy as np
    import precond

    rng = np.random.default_rng(0)
    sizes = [40, 56, 72, 88]
    params = {f"p{n}": jnp.asarray(rng.standard_normal((6, n, n)), jnp.float32) for n in sizes}
    tx = precond.%s
    update = jax.jit(tx.update)
    state = tx.init(params)
    for _ in range(%d):
        updates, state = update(params, state)
    jax.block_until_ready(state)
    print(all(bool(jnp.isfinite(u).all()) for u in updates.values()))
"""


@pytest.mark.parametrize(
    "optimizer",
    [
        "shampoo(1e-3, refresh=1, method=precond.eigh())",
        "shampoo(1e-3, refresh=precond.every(2, stagger=True))",
        "soap(1e-3, refresh=precond.every(1, delay=1, warmup=1))",
        "soap(1e-3, refresh=precond.every(1), method=precond.cholesky_qr())",
        "soap(1e-3, refresh=precond.every(1), method=precond.rotations())",
    ],
)
def test_stacks_of_many_sizes_do_not_wait_for_each_other(optimizer):
    views = "views=lambda path, p: precond.View((1, 2))"
    program = textwrap.dedent(PROGRAM % (optimizer[:-1] + f", {views})", 30))
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    # A process of its own with one device: that is where it happened, and a hang ends with it.
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, timeout=150, capture_output=True, text=True, check=False
    )
    assert run.stdout.strip() == "True", run.stderr

"""How fast, and how exactly, this device multiplies stacks of float32 matrices in every precision it has."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from . import clock

STACKS = ((512, 256), (64, 768), (32, 1024))
PRESETS = ("TF32_TF32_F32", "TF32_TF32_F32_X3", "BF16_BF16_F32_X3", "BF16_BF16_F32_X6", "BF16_BF16_F32_X9")
PRECISIONS = {
    "HIGHEST": jax.lax.Precision.HIGHEST,
    "HIGH": jax.lax.Precision.HIGH,
    "DEFAULT": jax.lax.Precision.DEFAULT,
    **{name: getattr(jax.lax.DotAlgorithmPreset, name) for name in PRESETS},
}


def rows(stacks=STACKS, repeats=10):
    """One row for each stack and precision. The error is that of the worst entry, relative to |A| |B|."""
    for copies, n in stacks:
        x = jax.random.normal(jax.random.key(n), (copies, n, n))
        a = np.asarray(x[0], np.float64)
        exact, size = a @ a, np.abs(a) @ np.abs(a)
        for name, precision in PRECISIONS.items():
            row = {"n": n, "batch": copies, "precision": name}
            try:
                run = jax.jit(functools.partial(jnp.matmul, precision=precision))
                took = clock.in_a_row(lambda run=run, x=x: run(x, x), repeats)
                off = np.abs(np.asarray(run(x, x)[0], np.float64) - exact) / size
                row |= {
                    "ms": round(took, 3),
                    "tflop_per_s": round(2 * copies * n**3 / took / 1e9, 1),
                    "error_in_float32_roundings": float(f"{off.max() / 2**-23:.3g}"),
                }
            except Exception as error:  # a device that lacks a precision says so when it compiles
                row["failed"] = str(error).splitlines()[0][:200]
            yield row

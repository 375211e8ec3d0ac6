"""Orthogonalize by Newton-Schulz on the block and on its Gram matrix, shape by shape: which way is the cheaper?

    .venv-tpu/bin/python benchmarks/gram.py        writes results/gram.json; `make accelerators` builds .venv-tpu

The cores of this machine multiply in float32, and both ways take turns. The compiler of a TPU v5e says what they would
cost there, in bfloat16. `precond.linalg.gram_is_cheaper` chooses by the shape and the dtype.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import statistics

import jax
import jax.numpy as jnp
import measure
from ahead.one_program import on_one_chip

from precond.linalg import block_newton_schulz, gram_newton_schulz
from precond.orthogonal import jordan

WAYS = {"block": block_newton_schulz, "gram": gram_newton_schulz}
ON_CPU = ((16, 128, 128), (16, 128, 192), (16, 128, 256), (16, 128, 512), (4, 256, 256), (4, 256, 512), (4, 256, 1024))
ON_TPU = ((16, 768, 768), (16, 768, 1152), (16, 768, 1536), (16, 768, 2304), (16, 768, 3072), (16, 256, 1024))


def timed(shape, repeats=15):
    """Milliseconds of each way on this machine, in turns."""
    x = jax.random.normal(jax.random.key(0), shape)
    runs = {name: jax.jit(lambda x, f=f: f(x, jordan())) for name, f in WAYS.items()}
    for run in runs.values():
        jax.block_until_ready(run(x))
    times = measure.alternating({name: lambda run=run: run(x) for name, run in runs.items()}, repeats)
    return {name: round(1e3 * statistics.median(t), 2) for name, t in times.items()}


def estimated(shape):
    """Millions of cycles of each way on a TPU."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return {name: on_one_chip(lambda x, f=f: f(x, jordan(), jnp.bfloat16), x)["megacycles"] for name, f in WAYS.items()}


def main():
    """Both ways for all shapes."""
    found = {
        "cpu_ms": [{"shape": shape, **timed(shape)} for shape in ON_CPU],
        "v5e_megacycles": [{"shape": shape, **estimated(shape)} for shape in ON_TPU],
    }
    measure.save("gram", found)


if __name__ == "__main__":
    main()

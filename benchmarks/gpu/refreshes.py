"""How long a refresh of roots and bases takes by every method, and how good the result is."""

import functools
import time
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from precond.linalg import (
    cholesky_qr_basis,
    composite_root,
    coupled_newton,
    eigh_root,
    qr_basis,
    root_residual,
    rotate_basis,
)
from precond.linalg.lapack import eigh

from .training import CUBLAS

STACKS, CONDITION, RIDGE, POWER = ((64, 256), (16, 768), (8, 1024)), 1e6, 1e-6, Fraction(1, 3)


def _composite(a):
    return composite_root(a, POWER, functools.partial(jnp.full_like, fill_value=RIDGE), least=RIDGE)[0]


def _newton(a):
    return coupled_newton(a, POWER, jnp.full(len(a), RIDGE), iterations=32)


ROOTS = {
    "composite": _composite,
    "newton": _newton,
    "eigh": lambda a: eigh_root(a, float(POWER), lambda top: RIDGE * top)[0],
}
BASES = {
    "qr, a stack at once": lambda a, basis: jnp.linalg.qr(jnp.matmul(a, basis, precision="highest"))[0],
    "qr, one after the other": qr_basis,
    "eigh": lambda a, basis: eigh(a)[1],
    "cholesky_qr": cholesky_qr_basis,
    "rotations": rotate_basis,
}


def matrices(n, copies):
    """Matrices whose eigenvalues fall evenly on a logarithmic scale, and the same with the ridge in float64."""
    rng, values = np.random.default_rng(n), np.geomspace(1 / CONDITION, 1, n)
    found = []
    for _ in range(copies):
        q = np.linalg.qr(rng.standard_normal((n, n)))[0]
        found.append((q * values) @ q.T)
    exact = np.stack(found)
    return jnp.asarray((exact + exact.mT) / 2, jnp.float32), exact + RIDGE * np.eye(n)


def rows(stacks=STACKS, repeats=3):
    """One row for each stack and method. The error of a root is in the spectral norm, against float64.

    Products are those of cuBLAS. For `composite` there is another row, with the compiler's own choice.
    """
    for copies, n in stacks:
        a, damped = matrices(n, copies)
        values, vectors = np.linalg.eigh(damped[0])
        exact = (vectors * values ** -float(POWER)) @ vectors.T
        basis = jnp.broadcast_to(jnp.asarray(vectors, jnp.float32), a.shape)
        roots = [("composite", _composite, {}), *((name, solve, CUBLAS) for name, solve in ROOTS.items())]
        for name, solve, options in roots:
            row = {"kind": "root", "method": name, "n": n, "batch": copies, "options": options}
            yield row | _measured(solve, (a,), options, repeats, functools.partial(_root, a, exact))
        for name, solve in BASES.items():
            row = {"kind": "basis", "method": name, "n": n, "batch": copies, "options": CUBLAS}
            yield row | _measured(solve, (a, basis), CUBLAS, repeats, _basis)


def _measured(solve, arguments, options, repeats, quality):
    """The seconds to compile, the milliseconds a matrix, and how good the result is."""
    try:
        traced = jax.jit(solve).lower(*arguments)
        begin = time.perf_counter()
        run = traced.compile(options)
        compile_s = time.perf_counter() - begin
        found = jax.block_until_ready(run(*arguments))
        ms = 1e3 * min(measure.seconds(lambda: run(*arguments)) for _ in range(repeats))
    except Exception as error:
        return {"failed": str(error).splitlines()[0][:200]}
    return {"compile_s": round(compile_s, 1), "ms_per_matrix": round(ms / len(arguments[0]), 4)} | quality(found)


def _root(a, exact, roots):
    off = np.linalg.norm(np.asarray(roots[0], np.float64) - exact, 2) / np.linalg.norm(exact, 2)
    residual = root_residual(roots, a + RIDGE * jnp.eye(a.shape[1]), POWER)
    return {"error": float(f"{off:.3g}"), "residual": float(f"{np.median(residual):.3g}")}


def _basis(basis):
    q = np.asarray(basis[0], np.float64)
    return {"off_orthogonal": float(f"{np.abs(q.T @ q - np.eye(len(q))).max():.3g}")}

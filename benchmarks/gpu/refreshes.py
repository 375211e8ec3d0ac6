"""How long a refresh of roots and bases takes by every method, and how good the result is."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

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

from . import clock
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
    "qr": qr_basis,
    "cholesky_qr": cholesky_qr_basis,
    "rotations": rotate_basis,
    "eigh": lambda a, basis: eigh(a)[1],
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
    """One row for each stack and method. The error of a root is in the spectral norm, against float64."""
    for copies, n in stacks:
        a, damped = matrices(n, copies)
        values, vectors = np.linalg.eigh(damped[0])
        exact = (vectors * values ** -float(POWER)) @ vectors.T
        for name, solve in ROOTS.items():
            yield _row("root", name, n, copies, repeats, solve, a, told=functools.partial(_root, a, exact))
        basis = jnp.broadcast_to(jnp.asarray(vectors, jnp.float32), a.shape)
        for name, solve in BASES.items():
            yield _row("basis", name, n, copies, repeats, solve, a, basis, told=_basis)


def _row(kind, name, n, copies, repeats, solve, *arguments, told):
    row = {"kind": kind, "method": name, "n": n, "batch": copies}
    try:
        run = jax.jit(solve).lower(*arguments).compile(CUBLAS)
        times = clock.milliseconds(lambda: run(*arguments), repeats)
        return row | {"ms_per_matrix": round(min(times) / copies, 4)} | told(run(*arguments))
    except Exception as error:
        return row | {"failed": str(error).splitlines()[0][:200]}


def _root(a, exact, roots):
    off = np.linalg.norm(np.asarray(roots[0], np.float64) - exact, 2) / np.linalg.norm(exact, 2)
    residual = root_residual(roots, a + RIDGE * jnp.eye(a.shape[1]), POWER)
    return {"error": float(f"{off:.3g}"), "residual": float(f"{np.median(residual):.3g}")}


def _basis(basis):
    q = np.asarray(basis[0], np.float64)
    return {"off_orthogonal": float(f"{np.abs(q.T @ q - np.eye(len(q))).max():.3g}")}

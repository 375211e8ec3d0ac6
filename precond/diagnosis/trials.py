"""Compute roots and bases on this machine: tell by which algorithm, how fast, and how well."""

import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from precond.roots import Method, Root, composite, eigenbasis, eigh, inverse_root, qr

__all__ = ["Trial", "Trials", "run_trials"]

_COUNT, _SIZE, _CONDITION = 4, 256, 1e4
_POWER = Fraction(1, 4)  # that of Shampoo for matrices
_DAMPING = 1e-6  # the default of `inverse_root`
_TURN = 0.1  # radians between a basis and the one before
_ITERATIONS = 30  # of the power iteration, for a norm to a few percent
_LONG = 0.3  # seconds of repetition after which a time is known well enough
_METHODS = {"eigh": eigh, "composite": composite}


class Trial(NamedTuple):
    """Hold what one method did on a batch of matrices of known spectrum.

    Attributes:
      method: the name of the method.
      milliseconds: the time for each matrix, without compilation.
      residual: the largest norm in the batch: for a root of X^4 (A + damping I) - I, and for a basis of Q^T Q - I.
    """

    method: str
    milliseconds: float
    residual: float


class Trials(NamedTuple):
    """Hold what was computed.

    Attributes:
      chosen: the method for roots that `precond.inverse_root` takes on this machine.
      roots: one trial for each method for roots.
      basis: a trial of `precond.qr`.
    """

    chosen: str
    roots: tuple[Trial, ...]
    basis: Trial


def run_trials() -> Trials:
    """Compute roots and bases of 4 matrices of 256 x 256 with a condition number of 10,000.

    Residuals are measured in float64 on the host, by their definition. Which method `precond.inverse_root` takes is
    seen from its result, which is that of the method.

    Returns:
      What was found.

    Examples:
      >>> run_trials().chosen
      'eigh'
    """
    vectors, matrices = _matrices()
    computed = {name: _root(method(), matrices) for name, method in _METHODS.items()}
    taken = _root(None, matrices[:1])[0]
    distance = {name: np.abs(root[:1] - taken).max() for name, (root, _) in computed.items()}
    return Trials(
        chosen=min(distance, key=lambda name: distance[name]),
        roots=tuple(Trial(name, ms, _root_residual(x, matrices)) for name, (x, ms) in computed.items()),
        basis=_basis(vectors, matrices),
    )


def _matrices() -> tuple[np.ndarray, np.ndarray]:
    """Make orthonormal eigenvectors, and symmetric matrices that have them, in float64.

    The eigenvectors are products of reflections. No decomposition is called: on this machine one might never
    return.
    """
    random = np.random.default_rng(0)
    vectors = np.broadcast_to(np.eye(_SIZE), (_COUNT, _SIZE, _SIZE))
    for _ in range(8):
        normal = random.standard_normal((_COUNT, _SIZE, 1))
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        vectors = vectors - 2 * normal * (normal.transpose(0, 2, 1) @ vectors)
    spectrum = np.geomspace(1 / _CONDITION, 1, _SIZE)
    return vectors, (vectors * spectrum) @ vectors.transpose(0, 2, 1)


def _refreshed(root: Root, matrices: np.ndarray, power: Any, old: np.ndarray | None) -> tuple[np.ndarray, float]:
    """Return what a root derives from factors, and the milliseconds for each."""
    factors = jnp.asarray(matrices, jnp.float32)
    (derived, _) = root.init(jnp.zeros((*factors.shape[:2], 1)), (factors, None)).derived
    if old is not None:
        derived = derived._replace(matrix=jnp.asarray(old, jnp.float32))
    refresh = jax.jit(lambda factors, derived: root.refresh(factors, derived, power, jnp.asarray(False)))
    found, seconds = _timed(refresh.lower(factors, derived).compile(), factors, derived)
    return np.asarray(found.matrix, np.float64), 1000 * seconds / len(matrices)


def _timed(f: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    """Return the result of a compiled function, and the least time of some calls: of one call, if it takes long."""
    found: Any = None
    times: list[float] = []
    while not times or (sum(times) < _LONG and len(times) < 20):
        start = time.perf_counter()
        found = jax.block_until_ready(f(*args))
        times.append(time.perf_counter() - start)
    return found, min(times)


def _root(method: Method | None, matrices: np.ndarray) -> tuple[np.ndarray, float]:
    return _refreshed(inverse_root(method=method), matrices, _POWER, None)


def _root_residual(root: np.ndarray, matrices: np.ndarray) -> float:
    product = matrices + _DAMPING * np.eye(_SIZE)
    for _ in range(_POWER.denominator):
        product = root @ product
    return _distance_from_identity(product)


def _basis(vectors: np.ndarray, matrices: np.ndarray) -> Trial:
    """Take one step of `precond.qr` from eigenvectors that are turned a little, two by two."""
    even, odd = vectors[..., ::2], vectors[..., 1::2]
    nearby, cosine, sine = np.empty_like(vectors), np.cos(_TURN), np.sin(_TURN)
    nearby[..., ::2], nearby[..., 1::2] = cosine * even + sine * odd, cosine * odd - sine * even
    found, milliseconds = _refreshed(eigenbasis(method=qr()), matrices, 1.0, nearby)
    return Trial("qr", milliseconds, _distance_from_identity(found.transpose(0, 2, 1) @ found))


def _distance_from_identity(x: np.ndarray) -> float:
    """Return the largest distance from the identity, in the spectral norm, by power iterations."""
    error = x - np.eye(x.shape[-1])
    v = np.random.default_rng(1).standard_normal((*x.shape[:2], 1))
    for _ in range(_ITERATIONS):
        v /= np.maximum(np.linalg.norm(v, axis=1, keepdims=True), np.finfo(float).tiny)
        v = error.transpose(0, 2, 1) @ (error @ v)
    return float(np.sqrt(np.linalg.norm(v, axis=1)).max())

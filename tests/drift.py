"""Statistics that drift, as the factors of a training run do, and what a stale basis makes of their inverse root."""

import pathlib

import numpy as np

RECORDING = pathlib.Path(__file__).parent / "roots" / "recording.npz"


def drifting(n, decay, *, stale=10, refreshes=5, exponent=1.5, seed=0):
    """A moving average of Gram matrices `[refreshes + 1, n, n]`, `stale` steps from one to the next.

    The gradients are `n` by `n`, with independent columns whose covariance has the eigenvalues `k^(-exponent)`. The
    first matrix is what the average is after many steps: a Wishart matrix with as many degrees of freedom as have the
    same variance, made from its Cholesky factor (Bartlett).
    """
    rng = np.random.default_rng(seed)
    vectors = np.linalg.qr(rng.standard_normal((n, n)))[0]
    root = vectors * np.arange(1, n + 1.0) ** (-exponent / 2)
    freedom = n * (1 + decay) / (1 - decay)
    triangle = np.tril(rng.standard_normal((n, n)), -1) + np.diag(np.sqrt(rng.chisquare(freedom - np.arange(n))))
    a = root @ triangle @ triangle.T @ root.T / freedom
    path = [a]
    for _ in range(refreshes):
        for _ in range(stale):
            gradient = root @ rng.standard_normal((n, n)) / np.sqrt(n)
            a = decay * a + (1 - decay) * gradient @ gradient.T
        path.append(a)
    return np.stack(path)


def recorded(decay):
    """Factors of a training run at consecutive refreshes, `[factors, refreshes, n, n]`; see `tests/roots/record.py`."""
    with np.load(RECORDING) as data:
        triangles = data["triangles"][list(data["decays"]).index(decay)]
    n = int(np.sqrt(2 * triangles.shape[-1]))
    full = np.zeros((*triangles.shape[:-1], n, n))
    full[..., *np.triu_indices(n)] = triangles
    return full + np.swapaxes(np.triu(full, 1), -1, -2)


def root_error(a, basis, ridge=0.0):
    """The relative spectral error of `Q diag(Q^T A Q)^(-1/4) Q^T` as `A^(-1/4)`, in float64; the ridge is relative."""
    a, basis = np.asarray(a, np.float64), np.asarray(basis, np.float64)
    values, vectors = np.linalg.eigh(a)
    ridge = ridge * values[-1]
    exact = (vectors * (values + ridge) ** -0.25) @ vectors.T
    induced = (basis * (np.sum(basis * (a @ basis), axis=0) + ridge) ** -0.25) @ basis.T
    return np.linalg.norm(induced - exact, 2) / np.linalg.norm(exact, 2)


def geometric_mean(x):
    return np.exp(np.mean(np.log(x)))

"""Find the closest matrix of rank one by a few products with vectors."""

import jax
import jax.numpy as jnp
import numpy as np

from precond.linalg.precision import dot_precision

__all__ = ["closest_rank_one"]


def _unit(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(norm > 0, norm, 1), norm


def closest_rank_one(a: jax.Array, steps: int = 16) -> tuple[jax.Array, jax.Array]:
    r"""Find vectors $k$ and $\psi$ of equal length whose product $k \psi^\top$ is the closest to A of rank one.

    They are $k = \sqrt{s_1} \, u_1$ and $\psi = \sqrt{s_1} \, v_1$, with the largest singular value and its vectors.
    The power iteration finds them from a fixed random vector. It takes two products with A in each step, no
    decomposition, and no data-dependent loop. The tangent of the angle to $\psi$ shrinks by $(s_2 / s_1)^2$ in each
    step. If $s_2 / s_1$ is 1/2, 16 steps leave about 1e-9 of it, and 1e-2 if it is 0.8. The relative error of $s_1$ is
    the square of the tangent. If the ratio is near one, the iteration may find other vectors, whose product is about as
    close: for any matrix, $s_1^2$ is too small by at most $0.871 \ln n / (\text{steps} - 1)$ of itself in the mean over
    starts. A single step is exact for rank one.

    Args:
      a: the matrices, `[.., m, n]`, of any magnitude.
      steps: the number of steps of the iteration.

    Returns:
      `[.., m]` and `[.., n]`; zeros for a zero matrix. The sign of both is the one that the iteration finds.

    Reference:
      Kuczynski and Wozniakowski, Estimating the largest eigenvalue by the power and Lanczos algorithms with a random
      start, 1992, Theorem 4.1.

    Examples:
      >>> k, psi = closest_rank_one(jnp.asarray([[3.0, 6.0], [4.0, 8.0]]))
      >>> jnp.outer(k, psi).round(4).tolist()
      [[3.0, 6.0], [4.0, 8.0]]
    """
    peak = jnp.max(jnp.abs(a), axis=(-2, -1), keepdims=True)
    scaled = a / jnp.where(peak > 0, peak, 1)
    start = np.random.default_rng(0).standard_normal(a.shape[-1])
    psi, s = jnp.broadcast_to(jnp.asarray(start, a.dtype), (*a.shape[:-2], a.shape[-1])), peak[..., 0]
    k = jnp.zeros_like(a[..., 0])
    for _ in range(steps):
        k, _ = _unit(jnp.einsum("...mn,...n->...m", scaled, psi, precision=dot_precision()))
        psi, s = _unit(jnp.einsum("...mn,...m->...n", scaled, k, precision=dot_precision()))
    length = jnp.sqrt(s * peak[..., 0])
    return length * k, length * psi

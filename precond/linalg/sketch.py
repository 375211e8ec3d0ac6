"""Keep a covariance in low rank by frequent directions: its largest eigenpairs, and one number for the rest."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from precond.linalg.lapack import eigh
from precond.linalg.multiply import gram
from precond.linalg.products import product

__all__ = ["Sketch", "empty_sketch", "sketch_power", "sketched"]


class Sketch(NamedTuple):
    r"""Hold a stack of sketches, each $U \mathrm{diag}(s) U^\top + \rho I$.

    Attributes:
      vectors: U, `[N, d, r]`.
      values: s, `[N, r]`, ascending and at least 0.
      tail: $\rho$, `[N]`.
    """

    vectors: jax.Array
    values: jax.Array
    tail: jax.Array


def empty_sketch(count: int, size: int, rank: int, dtype: jnp.dtype) -> Sketch:
    """Return sketches of zero.

    Args:
      count: N.
      size: d.
      rank: r, at most d.
      dtype: a floating-point type.

    Examples:
      >>> empty_sketch(2, 4, 3, jnp.float32).vectors.shape
      (2, 4, 3)
    """
    return Sketch(*(jnp.zeros((count, *shape), dtype) for shape in ((size, rank), (rank,), ())))


def sketched(old: Sketch, rows: jax.Array, decay: jax.typing.ArrayLike) -> Sketch:
    r"""Average the Gram matrix of rows into a sketch, and cut what exceeds its rank.

    With the eigenvalues $\lambda$ of $\beta U \mathrm{diag}(s) U^\top + (1 - \beta) X X^\top$ in descending order,

    $$s_i \leftarrow \lambda_i - \lambda_{r+1}, \qquad \rho \leftarrow \beta \rho + \lambda_{r+1}$$

    and U has the eigenvectors of the largest r. A smaller Gram matrix is decomposed, of r and the number of columns of
    X, where d is larger.

    Args:
      old: the sketches before.
      rows: X, `[N, d, n]`.
      decay: $\beta$.

    Examples:
      >>> x = jnp.asarray([[[2.0, 0.0], [0.0, 1.0]]])
      >>> found = sketched(empty_sketch(1, 2, 1, jnp.float32), x, 0.0)
      >>> found.values.tolist(), found.tail.tolist()
      ([[3.0]], [1.0])
    """
    size, rank = old.vectors.shape[1:]
    decay = jnp.asarray(decay, rows.dtype)
    before = old.vectors * _root_or_zero(decay * old.values)[:, None]
    joined = jnp.concatenate([before, jnp.sqrt(1 - decay) * rows], axis=2)
    small = size > joined.shape[2]
    values, vectors = eigh(gram(joined, axis=int(small)))
    kept, vectors = values[:, -rank:], vectors[:, :, -rank:]
    cut = jnp.maximum(values[:, -rank - 1], 0) if values.shape[1] > rank else jnp.zeros_like(old.tail)
    if small:  # vectors of values that are rounding are left out
        known = kept > joined.shape[2] * jnp.finfo(kept.dtype).eps * kept[:, -1:]
        vectors = product(joined, vectors) * jnp.where(known, jnp.where(known, kept, 1) ** -0.5, 0)[:, None]
    return Sketch(vectors, jnp.maximum(kept - cut[:, None], 0), decay * old.tail + cut)


def _root_or_zero(x: jax.Array) -> jax.Array:
    """Return the square root, with a derivative of 0 at 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)


def sketch_power(
    sketch: Sketch, rows: jax.Array, power: float, damping: jax.typing.ArrayLike, scale: jax.typing.ArrayLike = 1.0
) -> jax.Array:
    r"""Multiply rows by an inverse power, $\big((U \mathrm{diag}(s) U^\top + (\rho + \epsilon) I) / c\big)^{-p} X$.

    Args:
      sketch: the sketches.
      rows: X, `[N, d, n]`.
      power: p.
      damping: $\epsilon$, relative to the largest eigenvalue of each; at least the rounding of the type.
      scale: c.

    Returns:
      An array like X; X itself for a sketch of zero.

    Examples:
      >>> sketch = Sketch(
      ...     jnp.asarray([[[1.0], [0.0]]]), jnp.asarray([[3.0]]), jnp.asarray([1.0])
      ... )
      >>> sketch_power(sketch, jnp.ones((1, 2, 1)), 0.5, 0.0).round(4).tolist()
      [[[0.5], [1.0]]]
    """
    vectors, values, tail = sketch
    # Relative to the largest, so that nothing that is added to it is too small for the type.
    limits = jnp.finfo(values.dtype)
    largest = values[:, -1] + tail
    known = largest > limits.tiny
    whole = jnp.where(known, largest, 1)
    least = jnp.where(known, tail / whole + jnp.maximum(damping, limits.eps), 1)
    length = jnp.where(known, whole / scale, 1) ** -power
    inside = jnp.where(known[:, None], values / whole[:, None] + least[:, None], 1) ** -power * length[:, None]
    outside = least**-power * length
    coordinates = product(jnp.swapaxes(vectors, 1, 2), rows)
    moved = product(vectors, (inside - outside[:, None])[:, :, None] * coordinates)
    return outside[:, None, None] * rows + moved

"""Apply odd polynomials to the singular values of matrices by products alone: Newton-Schulz iterations."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from precond.linalg.batch_norm import batch_norm
from precond.linalg.products import product

__all__ = ["block_newton_schulz", "gram_is_cheaper", "gram_newton_schulz"]

Coefficients = tuple[float, float, float]
Rescale = Callable[[jax.Array], jax.Array]
"""A function from Gram matrices `[N, m, m]` to numbers that multiply the m rows or columns, `[N, m]`, or each matrix,
`[N, 1]`."""

_LONGEST = 3
"""The largest number of steps on one Gram matrix: in float32 five of them lose two digits."""

_GROWN = 0.1
"""The largest error of a Gram matrix before its last step.

With 0.14 in its place, one of 100 matrices of nearly rank one overflowed by eight steps of the Polar Express
(tests/linalg/test_newton_schulz.py).
"""


def _unit(x: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Divide each matrix by its Frobenius norm, so that no singular value is above 1; zeros stay zeros.

    The norm counts as larger by one unit of rounding of `dtype`. Above 1 the polynomials change their sign or explode.
    Complex matrices stay complex.
    """
    dtype = jnp.promote_types(dtype, x.dtype) if jnp.iscomplexobj(x) else dtype
    norm = batch_norm(x, 1) * (1 + jnp.finfo(dtype).eps)
    return (x / jnp.where(norm > 0, norm, 1)).astype(dtype)


def _transposed(x: jax.Array) -> jax.Array:
    """Return the transpose, conjugate if it is complex."""
    return jnp.conj(jnp.swapaxes(x, -1, -2))


def _gram(x: jax.Array) -> jax.Array:
    """Return the Gram matrix of the shorter side."""
    return product(x, _transposed(x)) if x.shape[1] <= x.shape[2] else product(_transposed(x), x)


def _begun(x: jax.Array, rescale: Rescale | None) -> tuple[jax.Array, jax.Array]:
    """Return X and its Gram matrix, both rescaled. As in `_unit`, a unit of rounding is left below 1."""
    a = _gram(x)
    if rescale is None:
        return x, a
    wide = jnp.promote_types(jnp.float32, x.dtype)
    s = rescale(a.astype(wide)) * (1 - jnp.finfo(x.dtype).eps)
    rows, columns = s[:, :, None], s[:, None, :]
    side = rows if x.shape[1] <= x.shape[2] else columns
    return (x.astype(wide) * side).astype(x.dtype), (a.astype(wide) * rows * columns).astype(x.dtype)


def _times(q: jax.Array, x: jax.Array) -> jax.Array:
    """Multiply X by a symmetric matrix, from the shorter side."""
    return product(q, x) if x.shape[1] <= x.shape[2] else product(x, q)


def _without_constant(p: Coefficients, a: jax.Array) -> jax.Array:
    """Return `b A + c A^2`."""
    _, b, c = p
    return b * a if c == 0 else b * a + c * product(a, a)


def block_newton_schulz(
    x: jax.Array,
    polynomials: Sequence[Coefficients],
    dtype: jax.typing.DTypeLike | None = None,
    *,
    rescale: Rescale | None = None,
) -> jax.Array:
    r"""Apply odd polynomials, one after the other, to the singular values of matrices.

    With $X_0 = X / \|X\|_F$, and for every polynomial $p(s) = a s + b s^3 + c s^5$::

        A = X X^T,    X <- a X + (b A + c A^2) X

    or the same from the right where X has more rows than columns, so that A belongs to the shorter side. For a complex
    matrix the transpose is conjugate. A step takes `4 m^2 n + 2 m^3` operations for m rows and n columns, m the fewer.

    Args:
      x: the matrices, `[N, m, n]`.
      polynomials: the coefficients (a, b, c) of each polynomial.
      dtype: the dtype of the products; None is that of x.
      rescale: a function from the first Gram matrices to numbers that multiply the rows of the shorter side, `[N, m]`,
        or each matrix, `[N, 1]`. None leaves them with a Frobenius norm of 1.

    Returns:
      `[N, m, n]` in the dtype of x; zeros for a matrix of zeros.

    Reference:
      Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.

    Examples:
      >>> x = block_newton_schulz(
      ...     jnp.asarray([[[3.0, 0.0], [0.0, 0.5]]]), [(1.5, -0.5, 0.0)] * 9
      ... )
      >>> x.round(4).tolist()
      [[[1.0, 0.0], [0.0, 1.0]]]
    """
    given, (x, a) = x.dtype, _begun(_unit(x, x.dtype if dtype is None else dtype), rescale)
    for step, p in enumerate(polynomials):
        x = p[0] * x + _times(_without_constant(p, _gram(x) if step else a), x)
    return x.astype(given)


def _groups(polynomials: Sequence[Coefficients], dtype: jax.typing.DTypeLike) -> list[list[Coefficients]]:
    """Choose which steps share a Gram matrix: as many as keep the error of its smallest eigenvalues small."""
    groups: list[list[Coefficients]] = []
    for p in polynomials:
        last = groups[-1] if groups else []
        error = float(jnp.finfo(dtype).eps) * math.prod(a * a for a, _, _ in last)
        if last and len(last) < _LONGEST and error <= _GROWN:
            last.append(p)
        else:
            groups.append([p])
    return groups


def gram_newton_schulz(
    x: jax.Array,
    polynomials: Sequence[Coefficients],
    dtype: jax.typing.DTypeLike | None = None,
    *,
    rescale: Rescale | None = None,
) -> jax.Array:
    r"""Apply polynomials as `block_newton_schulz` does, with most steps on the Gram matrix of the shorter side alone.

    With $A = X X^\top$ and $Q = I$, for every polynomial of a group::

        H = a I + b A + c A^2,    Q <- H Q,    A <- H A H

    At the end of a group X is multiplied by Q, and the next group starts from this X. Rounding errors replace the
    smallest eigenvalues of A. In each step they grow with the square of the growth of the singular values, by $a^2$. So
    groups are short. A group has at most three steps. It ends sooner if the rounding of the dtype, times the product of
    $a^2$ over its steps, is above 0.1. In float32 no set of polynomials of this library reaches that. In bfloat16 two
    of Jordan's steps (a = 3.44) do, or one step with a above 3.58; two of the classical cubic steps (a = 1.5) do not.

    These are the relative errors of five of Jordan's steps in the Frobenius norm, at a condition number of 1e3:

    | | bfloat16 | float32 |
    |---|---|---|
    | on one Gram matrix | 5.7 | 2e-4 |
    | in groups | 0.07 | 4e-6 |
    | on the block | 0.12 | 3e-6 |

    Args:
      x: the matrices, `[N, m, n]`.
      polynomials: the coefficients (a, b, c) of each polynomial.
      dtype: the dtype of the products; None is that of x.
      rescale: the function that rescales, as in `block_newton_schulz`.

    Returns:
      `[N, m, n]` in the dtype of x.

    Examples:
      >>> x = gram_newton_schulz(
      ...     jnp.asarray([[[3.0, 0.0], [0.0, 0.5]]]), [(1.5, -0.5, 0.0)] * 9
      ... )
      >>> x.round(4).tolist()
      [[[1.0, 0.0], [0.0, 1.0]]]
    """
    given, (x, a) = x.dtype, _begun(_unit(x, x.dtype if dtype is None else dtype), rescale)
    identity = jnp.eye(min(x.shape[1:]), dtype=x.dtype)
    for number, group in enumerate(_groups(polynomials, x.dtype)):
        a = _gram(x) if number else a
        q = h = group[0][0] * identity + _without_constant(group[0], a)
        for p in group[1:]:
            a = product(product(h, a), h)
            h = p[0] * identity + _without_constant(p, a)
            q = product(h, q)
        x = _times(q, x)
    return x.astype(given)


def gram_is_cheaper(shape: tuple[int, int], dtype: jax.typing.DTypeLike) -> bool:
    """Return whether the Gram form is the cheaper one for matrices of a shape.

    A group of k steps takes `4 m^2 n + (8 k - 6) m^3` operations where the block takes `k (4 m^2 n + 2 m^3)`: fewer for
    n above 1.5 m, for every k above 1. For cubics the two counts differ, and the limit does not. In dtypes of 16 bits
    products are so fast that reading and writing the additional matrices counts, too. On a TPU v5e the Gram form is
    then cheaper for n above 3 m, and nearly as cheap from 2 m on (`benchmarks/gram.py`).

    Args:
      shape: the shape of a matrix.
      dtype: the dtype of the products.

    Examples:
      >>> gram_is_cheaper((64, 256), "float32"), gram_is_cheaper((128, 64), "float32")
      (True, True)
      >>> gram_is_cheaper((64, 256), "bfloat16"), gram_is_cheaper((128, 64), "bfloat16")
      (True, False)
    """
    limit = 2.5 if jnp.dtype(dtype).itemsize == 2 else 1.5
    return max(shape) > limit * min(shape)

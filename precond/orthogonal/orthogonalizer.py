"""Choose the algorithm that orthogonalizes matrices, by a value."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from precond.arguments import check_floating, check_part, check_whole, described
from precond.linalg import block_newton_schulz, gram_is_cheaper, gram_newton_schulz, polar_factor
from precond.orthogonal.polynomials import check_polynomials, jordan
from precond.orthogonal.rescaling import Rescaling

__all__ = ["Orthogonalizer", "block_periodic", "newton_schulz", "polar"]


_DIVERGED = 100.0
"""The error from which a result of Newton-Schulz is thrown away, because the iteration has diverged.

The error is the root mean square of $s^2 - 1$ over the singular values s of the result, as `isometry_error` estimates
it. A singular value that is still 0 counts 1, so a result that has not diverged has an error of about 1 at most. If the
iteration diverges, singular values grow beyond all bounds. 100 is far from both. If all singular values of a matrix are
equal, they are then 10. If one of m is larger than 1 and the others are 1, it is 10 times the fourth root of m.
"""


class Orthogonalizer(NamedTuple):
    """Say how matrices are orthogonalized.

    Attributes:
      name: the name of the function that made it, for errors.
      apply: a function from matrices `[N, m, n]` in float32 or wider to matrices of the same shape and type, each with
        about the same singular vectors and with singular values of about 1. Zeros must stay zeros, and no scale may
        matter.
      block_size: the longest side of the blocks that are orthogonalized alone between whole matrices; None for whole
        matrices in every step.
      period: the number of steps from one step with whole matrices to the next, if there is a block size.
      largest_error: the error from which a result is thrown away; the update is then zero. The error is an estimate of
        the root mean square of $s^2 - 1$ over the singular values s of the result: 0 if all are 1, and 1 if all are 0.
        A result that is not finite is always thrown away.
    """

    name: str
    apply: Callable[[jax.Array], jax.Array]
    block_size: int | None = None
    period: int = 1
    largest_error: float = math.inf

    def __repr__(self) -> str:
        """Return the name of the function that made it."""
        return self.name


@described()
def newton_schulz(
    polynomials: Sequence[Sequence[float]] | None = None,
    *,
    dtype: jax.typing.DTypeLike | None = None,
    gram: bool | None = None,
    rescale: Rescaling | None = None,
) -> Orthogonalizer:
    r"""Apply odd polynomials to the singular values, by matrix products alone.

    $$X_0 = X / \|X\|_F, \qquad X \leftarrow a X + (b A + c A^2) X, \quad A = X X^\top$$

    with $A$ the Gram matrix of the shorter side, for each of the polynomials $a s + b s^3 + c s^5$. If one side is more
    than 1.5 times as long as the other, some steps are done on the Gram matrix alone, which is cheaper. In dtypes of 16
    bits it must be 2.5 times as long. For a side 4 times as long, five steps of `jordan()` take 0.67 times as many
    operations in float32, and 0.78 times in bfloat16. In bfloat16 fewer steps may share a Gram matrix.

    Args:
      polynomials: `precond.orthogonal.jordan()` (the default), `dion()`, `polar_express()`, `deepseek()`, `cubic()`, or
        two or three coefficients for each step.
      dtype: the dtype in which matrices are multiplied. None is bfloat16 on accelerators, where that is several times
        as fast, and float32 on CPU; float64 stays float64, and complex matrices stay complex. Five quintic steps in
        bfloat16 change an update by 5 % to 10 %.
      gram: whether to work on the Gram matrix; None is what is cheaper for the shape of the matrix.
      rescale: what brings singular values nearer to 1 before the first polynomial: `precond.orthogonal.schatten()`,
        `precond.orthogonal.spectral()` or `precond.orthogonal.almost_orthogonal()`. None leaves them as they are, in a
        matrix of Frobenius norm 1.

    Returns:
      A value for `method=` of `precond.muon`.

    Raises:
      ValueError, TypeError: if `polynomials` is not a set of polynomials, or `dtype` not a type of floating point.

    Reference:
      Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.

    Examples:
      >>> import precond
      >>> method = newton_schulz(precond.orthogonal.polar_express(8), dtype=jnp.float32)
      >>> method.apply(jnp.asarray([[[3.0, 0.0], [0.0, 0.5]]])).round(4).tolist()
      [[[1.0, 0.0], [0.0, 1.0]]]
    """
    steps = check_polynomials(jordan() if polynomials is None else polynomials)
    if dtype is not None:
        check_floating("dtype", dtype)
    if rescale is not None:
        check_part("rescale", rescale, Rescaling, "precond.orthogonal.schatten()")
    factor = None if rescale is None else rescale.factor

    def multiplied_in(kind: jax.typing.DTypeLike | None) -> Callable[[jax.Array], jax.Array]:
        def run(x: jax.Array) -> jax.Array:
            multiplied = x.dtype if kind is None else kind
            small = gram_is_cheaper((x.shape[1], x.shape[2]), multiplied) if gram is None else gram
            return (gram_newton_schulz if small else block_newton_schulz)(x, steps, kind, rescale=factor)

        return run

    def apply(x: jax.Array) -> jax.Array:
        if dtype is not None or x.dtype != jnp.float32:
            return multiplied_in(dtype)(x)
        return lax.platform_dependent(x, cpu=multiplied_in(None), default=multiplied_in(jnp.bfloat16))

    return Orthogonalizer("newton_schulz()", apply, largest_error=_DIVERGED)


@described()
def polar() -> Orthogonalizer:
    """Take the polar factor itself, by a singular value decomposition.

    It is the definition of what `newton_schulz` approaches: all singular values are 1, or 0 where they were 0. It is
    slow on accelerators.

    Returns:
      A value for `method=` of `precond.muon`.

    Examples:
      >>> polar().apply(jnp.asarray([[[3.0, 0.0], [0.0, 0.5]]])).tolist()
      [[[1.0, 0.0], [0.0, 1.0]]]
    """
    return Orthogonalizer("polar()", polar_factor)


@described()
def block_periodic(block_size: int, period: int = 5, method: Orthogonalizer | None = None) -> Orthogonalizer:
    """Orthogonalize blocks of a matrix, each alone, and the whole matrix in the first of every few steps.

    Blocks take fewer operations if the matrix is nearly square: a quarter for 2048 x 2048 in blocks of 512 x 512. If
    one side is 4 times as long, the Gram matrix has saved as much already. Then 1024 x 4096 takes as many operations as
    its blocks of 512 x 512, and half as many as those of 1024 x 1024. In the paper, blocks are the shards of a matrix
    and save communication, too. Here a matrix is on one device, so that both kinds of steps send the same.

    Each side is cut into equal pieces, and zeros fill up what does not divide. The scale of `precond.muon` is that of
    the block in these steps, so that with `precond.orthogonal.match_rms` entries are equally large in all of them.

    Args:
      block_size: the longest side of a block.
      period: the whole matrix is orthogonalized in every so many steps. 1 never takes blocks.
      method: the algorithm for both; None is `precond.orthogonal.newton_schulz()`.

    Returns:
      A value for `method=` of `precond.muon`.

    Raises:
      ValueError, TypeError: for numbers that are not positive integers, and for a method of another kind or one that
        has blocks of its own.

    Reference:
      Khaled et al., MuonBP: Faster Muon via Block-Periodic Orthogonalization, 2025.

    Examples:
      >>> import precond
      >>> tx = precond.scale_by_muon(method=block_periodic(1, 2, polar()))
      >>> w = {"kernel": jnp.ones((2, 2))}
      >>> state = tx.init(w)
      >>> for _ in range(2):
      ...     updates, state = tx.update(w, state)
      >>> # Every entry is a block in the second step.
      >>> [round(x, 4) for x in updates["kernel"].ravel().tolist()]
      [0.2, 0.2, 0.2, 0.2]
    """
    method = newton_schulz() if method is None else method
    check_whole("block_size", block_size, least=1)
    check_whole("period", period, least=1)
    check_part("method", method, Orthogonalizer, "precond.orthogonal.newton_schulz()")
    if method.block_size is not None:
        raise ValueError(
            f"method={method.name}: blocks of blocks have no meaning. Give a method without blocks, such as "
            "precond.orthogonal.newton_schulz()."
        )
    name = f"block_periodic({block_size}, {period}, {method.name})"
    return method._replace(name=name, block_size=block_size, period=period)

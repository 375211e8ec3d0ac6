"""Decompose stacks of matrices, on CPU each matrix by itself."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from precond.linalg.hidden_constants import hidden_constants

__all__ = ["cholesky", "eigh", "orthonormal_columns", "solve_positive", "solve_triangular", "svd"]


Derivative = Callable[[Sequence[jax.Array], Sequence[jax.Array], Any], Any]

_LANES = 16  # with fewer, XLA does not use all cores; with more, the program only grows
_SMALL = 64  # matrices below this size are decomposed before another core has started
_SLOW_STACK = 256  # from this size on, a GPU takes longer for a stack of QR decompositions than for one after the other


def _one_by_one(decompose: Callable[..., Any], *stacks: jax.Array) -> Any:
    """Decompose each matrix in a call of its own, in rounds of calls side by side, which XLA spreads over the cores."""
    m, n = stacks[0].shape[:2]
    if m == 1:  # a round of one call, without a loop
        return decompose(*stacks)
    most = 1 if n < _SMALL else min(m, _LANES)
    # Take the widest rounds that divide the stack, or nearly so.
    lanes = min(range((most + 1) // 2, most + 1), key=lambda k: (-m % k, -k))
    one = jax.jit(decompose)  # the program has one function, which every lane calls

    def at(place: jax.Array, x: jax.Array) -> jax.Array:
        return lax.dynamic_slice(x, [place, *[jnp.zeros_like(place)] * (x.ndim - 1)], (1, *x.shape[1:]))

    def turn(place: jax.Array) -> Any:
        # If the last round is not full, it decomposes the last matrix again.
        out = [one(*(at(jnp.minimum(place + lane, jnp.uint32(m - 1)), x) for x in stacks)) for lane in apart]
        return jax.tree.map(lambda *x: jnp.concatenate(x), *out)

    apart = hidden_constants(range(lanes))
    out = lax.map(turn, jnp.arange(0, m, lanes, dtype=jnp.uint32))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:m], out)


def _in_turn(decompose: Callable[..., Any], *stacks: jax.Array) -> Any:
    """Decompose the matrices of a stack one after the other if they are large.

    For 16 matrices of 768 rows, QR takes an H200 855 milliseconds as a stack, and 61 in turn (docs/accelerators.md).
    """
    if stacks[0].shape[-2] < _SLOW_STACK:
        return decompose(*stacks)
    return lax.map(lambda xs: jax.tree.map(lambda x: x[0], decompose(*(x[None] for x in xs))), stacks)


def _matrix_by_matrix(
    decompose: Callable[..., Any], *, derivative: Derivative | None = None, on_gpu: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """Make a function of stacks that on CPU calls LAPACK for each matrix by itself.

    XLA's CPU client (jaxlib 0.10) splits a batch for LAPACK over one pool of threads, and the call waits in this pool
    for its parts. Two such calls at the same time, of one program or of two devices, can deadlock. No order of
    operations in a program prevents it, since compilation removes every `optimization_barrier`. A batch of one is not
    split, and nothing waits. Calls that do not depend on each other still run on all cores.

    Args:
      decompose: a function of stacks of matrices.
      derivative: a function from the matrices, their tangents and the result to the tangents of the result; None is
        that of JAX.
      on_gpu: a function that calls `decompose` on GPUs, such as `_in_turn`; None passes it the whole stack.
    """
    cpu = functools.partial(_one_by_one, decompose)
    gpu = decompose if on_gpu is None else functools.partial(on_gpu, decompose)

    def of_stacks(*stacks: jax.Array) -> Any:
        return lax.platform_dependent(*stacks, cpu=cpu, cuda=gpu, rocm=gpu, default=decompose)

    call = jax.custom_batching.custom_vmap(of_stacks)

    @call.def_vmap
    def _(size: int, batched: Sequence[bool], *stacks: jax.Array) -> tuple[Any, Any]:
        # Under the user's own vmap, all matrices become one stack.
        whole = [x if b else jnp.broadcast_to(x, (size, *x.shape)) for x, b in zip(stacks, batched, strict=True)]
        out = differentiable(*(x.reshape(-1, *x.shape[2:]) for x in whole))
        return jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), out), jax.tree.map(lambda x: True, out)

    @jax.custom_jvp
    def differentiable(*stacks: jax.Array) -> Any:
        return call(*stacks)

    # A function with a batching rule of its own has no reverse mode; the decompositions themselves have.
    def jvp(primals: Sequence[jax.Array], tangents: Sequence[jax.Array]) -> tuple[Any, Any]:
        if derivative is None:
            return jax.jvp(decompose, primals, tangents)
        out = differentiable(*primals)
        return out, derivative(primals, tangents, out)

    differentiable.defjvp(jvp)
    return functools.wraps(decompose)(differentiable)


def _eigh_derivative(
    primals: Sequence[jax.Array], tangents: Sequence[jax.Array], out: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Return tangents of eigenvalues and eigenvectors; those of equal eigenvalues get no rotation between them.

    The choice of their basis is arbitrary, and no differentiable result depends on it.
    """
    del primals
    values, vectors = out
    rotated = _product(vectors.mT, _product(tangents[0], vectors))
    gaps = values[:, None, :] - values[:, :, None]
    largest = jnp.max(jnp.abs(values), axis=1)[:, None, None]
    apart = jnp.abs(gaps) > values.shape[1] * jnp.finfo(values.dtype).eps * largest
    rotation = jnp.where(apart, rotated / jnp.where(apart, gaps, 1), 0)
    return jnp.diagonal(rotated, axis1=1, axis2=2), _product(vectors, rotation)


def _qr_derivative(primals: Sequence[jax.Array], tangents: Sequence[jax.Array], out: jax.Array) -> jax.Array:
    """Return the tangent of the orthonormal factor, in which linearly dependent columns get no rotation.

    The choice of their direction is arbitrary, and no differentiable result depends on it.
    """
    upper = jnp.triu(_product(out.mT, primals[0]))
    diagonal = jnp.diagonal(upper, axis1=1, axis2=2)
    largest = jnp.max(jnp.abs(diagonal), axis=1, keepdims=True)
    known = jnp.abs(diagonal) > upper.shape[1] * jnp.finfo(upper.dtype).eps * largest
    eye = jnp.eye(upper.shape[1], dtype=upper.dtype)
    safe = jnp.where(known[:, None, :], upper, eye)
    change = jnp.where(known[:, None, :], _product(out.mT, tangents[0]), 0)
    lower = jnp.tril(lax.linalg.triangular_solve(safe, change, left_side=False, lower=False), -1)
    lower = jnp.where(known[:, None, :], lower, 0)
    return _product(out, lower - lower.mT)


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)


@functools.partial(_matrix_by_matrix, derivative=_eigh_derivative)
def eigh(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Compute ascending eigenvalues and orthonormal eigenvectors of symmetric matrices.

    Args:
      a: the matrices, `[M, n, n]`.

    Returns:
      `[M, n]` and `[M, n, n]`.

    Examples:
      >>> eigh(jnp.diag(jnp.asarray([3.0, 2.0]))[None])[0].tolist()
      [[2.0, 3.0]]
    """
    return tuple(jnp.linalg.eigh(a, symmetrize_input=False))


@functools.partial(_matrix_by_matrix, derivative=_qr_derivative, on_gpu=_in_turn)
def orthonormal_columns(x: jax.Array) -> jax.Array:
    """Compute the orthonormal factor of the QR decomposition.

    Args:
      x: the matrices, `[M, n, r]`, with r at most n.

    Returns:
      `[M, n, r]`.

    Examples:
      >>> jnp.abs(orthonormal_columns(jnp.asarray([[[2.0, 1.0], [0.0, 3.0]]]))).tolist()
      [[[1.0, 0.0], [0.0, 1.0]]]
    """
    return jnp.linalg.qr(x)[0]


@_matrix_by_matrix
def cholesky(a: jax.Array) -> jax.Array:
    """Compute the lower triangular `L` with `L L^T = A`; NaN if A is not positive definite.

    Args:
      a: symmetric matrices, `[M, n, n]`.

    Returns:
      `[M, n, n]`.

    Examples:
      >>> cholesky(jnp.full((1, 1, 1), 4.0)).item()
      2.0
    """
    return lax.linalg.cholesky(a, symmetrize_input=False)


@_matrix_by_matrix
def solve_triangular(m: jax.Array, x: jax.Array) -> jax.Array:
    """Solve for `X M^(-T)`.

    Args:
      m: lower triangular matrices, `[M, n, n]`.
      x: the matrices, `[M, n, n]`.

    Returns:
      `[M, n, n]`.

    Examples:
      >>> solve_triangular(jnp.full((1, 1, 1), 2.0), jnp.ones((1, 1, 1))).item()
      0.5
    """
    return lax.linalg.triangular_solve(m, x, left_side=False, lower=True, transpose_a=True)


@_matrix_by_matrix
def solve_positive(a: jax.Array, b: jax.Array) -> jax.Array:
    """Solve for `A^(-1) B` by the Cholesky decomposition; NaN if A is not positive definite.

    Args:
      a: symmetric matrices, `[M, n, n]`.
      b: the right-hand sides, `[M, n, k]`.

    Returns:
      `[M, n, k]`.

    Examples:
      >>> solve_positive(jnp.full((1, 1, 1), 4.0), jnp.ones((1, 1, 1))).item()
      0.25
    """
    factor = lax.linalg.cholesky(a, symmetrize_input=False)
    half = lax.linalg.triangular_solve(factor, b, left_side=True, lower=True)
    return lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True)


@_matrix_by_matrix
def svd(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the singular value decomposition `U S V^T`, with as many columns of U and V as the shorter side has.

    Args:
      x: the matrices, `[M, m, n]`.

    Returns:
      U, `[M, m, k]`; the singular values in falling order, `[M, k]`; and V transposed, `[M, k, n]`.

    Examples:
      >>> svd(jnp.diag(jnp.asarray([2.0, 3.0]))[None])[1].tolist()
      [[3.0, 2.0]]
    """
    return tuple(jnp.linalg.svd(x, full_matrices=False))

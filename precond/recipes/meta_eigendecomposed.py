"""Follow Meta's Shampoo with factors that are kept as eigendecompositions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from precond.arguments import check_number, check_part, described
from precond.blocks import keep_finite
from precond.linalg import multiply, orthogonality_residual
from precond.linalg.products import product
from precond.recipes.meta_bases import meta_eigh_basis, ridged
from precond.recipes.meta_roots import inverse_powers, pseudo_inverse_powers
from precond.recipes.plain_root import shifted
from precond.roots import Axis, Checked, Method, Power, Root, RootState, accept
from precond.roots.guard import ORTHOGONAL, unchecked
from precond.roots.powers import Powers, powers
from precond.roots.root import Factor
from precond.trees import Leaf

__all__ = ["Eigendecomposition", "meta_eigendecomposed"]


class Eigendecomposition(NamedTuple):
    """Hold what is kept of a factor.

    Attributes:
      vectors: the eigenvectors, in columns, `[N, d, d]`.
      values: the eigenvalues, `[N, d]`.
      inverse: the inverse powers of the eigenvalues, `[N, d]`.
    """

    vectors: Checked
    values: jax.Array
    inverse: jax.Array


@described()
def meta_eigendecomposed(
    epsilon: float = 1e-12,
    *,
    power: Powers = None,
    method: Method | None = None,
    after: bool = False,
    pseudo_inverse: bool = False,
    rtol: float | None = 0.0,
    atol: float = 0.0,
) -> Root:
    r"""Keep factors as `EigendecomposedShampooPreconditionerConfig` does: by their eigenvalues and eigenvectors.

    With $Q \, \mathrm{diag}(s) \, Q^\top$ for the decomposition of a factor, each axis is multiplied by
    $Q s^{-q} Q^\top$. With `meta_eigh_basis()` the direction is that of `meta_eigh` or `meta_pseudo_inverse`. With
    `meta_qr_basis()`, or with a tolerance, decompositions start from those before, which a root alone does not tell.
    The values are then the diagonal of $Q^\top (A + \epsilon I) Q$.

    Args:
      epsilon: as in `meta_eigh`; 0 with `pseudo_inverse`.
      power: as in `precond.inverse_root`.
      method: `recipes.meta_eigh_basis()` (None) or `recipes.meta_qr_basis()`, either with a tolerance: a factor whose
        basis is good enough keeps it, and has new eigenvalues alone.
      after: as in `meta_eigh`.
      pseudo_inverse: leave small eigenvalues out, as `meta_pseudo_inverse` does, in place of `epsilon`.
      rtol: the relative tolerance of the pseudo-inverse.
      atol: the absolute tolerance of the pseudo-inverse.

    Raises:
      ValueError, TypeError: for a number out of range, a method that computes no basis, or an epsilon that is not 0
        with `pseudo_inverse`.

    Examples:
      >>> root, factor = meta_eigendecomposed(1.0, power=0.5), jnp.full((1, 1, 1), 3.0)
      >>> root.refresh(
      ...     factor, root.init(factor, (factor,)).derived[0], 0.5, True
      ... ).values.item()
      4.0
    """
    method = meta_eigh_basis() if method is None else method
    check_part("method", method, Method, "precond.recipes.meta_qr_basis()")
    if method.basis is None:
        raise ValueError(f"method={method.name} computes no eigenbasis: use recipes.meta_qr_basis() or precond.eigh().")
    for name, value in (("epsilon", epsilon), ("rtol", rtol), ("atol", atol)):
        if value is not None:
            check_number(name, value, 0)
    if pseudo_inverse and epsilon != 0:
        raise ValueError(f"epsilon={epsilon}: must be 0 with pseudo_inverse=True, which adds nothing to a factor.")
    added = 0.0 if after else epsilon
    basis_of, power_of = ridged(method, added).basis, powers(power)
    assert basis_of is not None

    def inverse(values: jax.Array, power: Power) -> jax.Array:
        if pseudo_inverse:
            return pseudo_inverse_powers(values, float(power), rtol, atol)
        return inverse_powers(values, float(power), epsilon, after=after)

    def init(stack: Leaf, factors: tuple[Factor | None, ...]) -> RootState:
        del stack
        order = sum(f is not None for f in factors)

        def start(index: int, factor: Factor) -> Eigendecomposition:
            values = jnp.ones(factor.shape[:2], factor.dtype)
            return Eigendecomposition(
                unchecked(factor), values, inverse(values, power_of(Axis(index, len(factors), order)))
            )

        return RootState(tuple(None if f is None else start(i, f) for i, f in enumerate(factors)), ())

    def refresh(factors: jax.Array, derived: Eigendecomposition, power: Power, first: jax.Array) -> Eigendecomposition:
        basis = basis_of(factors, derived.vectors.matrix, first)
        values = jnp.sum(basis * product(shifted(factors, added), basis), axis=1)
        found = inverse(values, power)
        finite = jnp.max(jnp.abs(jnp.concatenate([values, found], axis=1)), axis=1) < jnp.inf
        residual = jnp.where(finite, orthogonality_residual(basis), jnp.inf)
        largest, least = jnp.max(values, axis=1), jnp.maximum(jnp.min(values, axis=1), epsilon)
        condition = jnp.where((largest > 0) & (least > 0), largest / jnp.where(least > 0, least, 1), 1)
        damping = epsilon / jnp.where(largest > 0, largest, 1)
        vectors = accept(basis, residual, derived.vectors, ORTHOGONAL, damping=damping, condition=condition)
        good = vectors.health.stale == 0
        return Eigendecomposition(
            vectors, keep_finite(good, values, derived.values), keep_finite(good, found, derived.inverse)
        )

    def apply(direction: jax.Array, gradient: jax.Array, state: RootState) -> tuple[jax.Array, RootState]:
        del gradient
        bases = [None if x is None else x.vectors.matrix for x in state.derived]
        turned = multiply(direction, bases, transpose=True)
        for axis, x in enumerate(state.derived):
            if x is not None:
                sides = [x.inverse.shape[1] if i == axis else 1 for i in range(direction.ndim - 1)]
                turned = turned * x.inverse.reshape(-1, *sides).astype(turned.dtype)
        return multiply(turned, bases), state

    def whiten(state: RootState, axis: int, factor: jax.Array) -> jax.Array:
        del factor
        derived = state.derived[axis]
        vectors = derived.vectors.matrix
        return product(vectors * derived.inverse[:, None, :], jnp.swapaxes(vectors, 1, 2))

    return Root(init, refresh, apply, whiten, power_of)

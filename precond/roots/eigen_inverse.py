"""Multiply by the inverse of the damped Kronecker product itself, in the eigenbasis of the factors."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from precond.arguments import check_number, described
from precond.blocks import keep_finite
from precond.linalg import dot_precision
from precond.linalg.align import on_axis
from precond.linalg.divide import divide_in_bases
from precond.roots.guard import Checked, refresh_basis, unchecked
from precond.roots.methods import Method, eigh
from precond.roots.root import Factor, Power, Root, RootState
from precond.trees import Leaf

__all__ = ["Spectrum", "eigen_inverse"]


class Spectrum(NamedTuple):
    """Hold the eigendecomposition of a factor.

    Attributes:
      basis: the eigenvectors of the factor, `[N, d, d]`; None for a diagonal factor.
      values: the eigenvalues of the factor, `[N, d]`.
    """

    basis: Checked | None
    values: jax.Array


@described()
def eigen_inverse(damping: ArrayLike = 1e-3, *, method: Method | None = None) -> Root:
    r"""Multiply each block by the exact inverse of the damped Kronecker product of its factors.

    $$(F_1 \otimes \cdots \otimes F_k + \lambda I)^{-1}$$

    With $F_i = Q_i \, \mathrm{diag}(s_i) \, Q_i^\top$, each entry of the gradient in the basis of the $Q_i$ is divided
    by $\prod_i s_i + \lambda$. Here the whole matrix is damped. `precond.inverse` damps each factor, and so adds the
    terms $\pi \sqrt\lambda \, I \otimes G + \sqrt\lambda / \pi \, A \otimes I$, which Ba et al. preferred on ImageNet.
    This root costs an eigendecomposition in place of an inverse, and twice the products in a step.

    Args:
      damping: $\lambda$, in the units of the Fisher matrix. A direction in which both it and the matrix are 0 is left
        out.
      method: the method that refreshes bases: `precond.eigh()` (the default), `precond.qr()`,
        `precond.roots.rotations()` or `precond.roots.cholesky_qr()`.

    Returns:
      A `Root`. Before the first refresh the factors count as the identity.

    Raises:
      ValueError, TypeError: for a negative damping, or a method that computes no basis.

    Reference:
      Martens and Grosse, 2015, section 6.3 and appendix B; George et al., 2018.

    Examples:
      >>> root, factor = eigen_inverse(damping=1.0), jnp.full((1, 1, 1), 3.0)
      >>> state = root.init(jnp.ones((1, 1)), (factor,))
      >>> state = state._replace(
      ...     derived=(root.refresh(factor, state.derived[0], 1, jnp.asarray(True)),)
      ... )
      >>> root.apply(jnp.ones((1, 1)), jnp.ones((1, 1)), state)[0].item()
      0.25
    """
    method = eigh() if method is None else method
    basis_of = method.basis
    if basis_of is None:
        raise ValueError(f"method={method.name} computes no eigenbasis: use precond.eigh() or precond.qr().")
    check_number("damping", damping, 0)

    def init(stack: Leaf, factors: tuple[Factor | None, ...]) -> RootState:
        del stack

        def start(factor: Factor) -> Spectrum:
            full = len(factor.shape) == 3
            return Spectrum(unchecked(factor) if full else None, jnp.ones(factor.shape[:2], factor.dtype))

        return RootState(tuple(None if f is None else start(f) for f in factors), ())

    def refresh(factors: jax.Array, derived: Spectrum, power: Power, first: jax.Array) -> Spectrum:
        del power
        if derived.basis is None:
            good = jnp.max(jnp.abs(factors), axis=1) < jnp.inf
            return Spectrum(None, keep_finite(good, jnp.maximum(factors, 0), derived.values))
        kept = refresh_basis(basis_of, factors, derived.basis, first)
        products = jnp.matmul(factors, kept.matrix, precision=dot_precision())
        values = jnp.maximum(jnp.sum(kept.matrix * products, axis=1), 0)
        return Spectrum(kept, keep_finite(kept.health.stale == 0, values, derived.values))

    def apply(direction: jax.Array, gradient: jax.Array, state: RootState) -> tuple[jax.Array, RootState]:
        del gradient
        bases = [None if x is None or x.basis is None else x.basis.matrix for x in state.derived]
        there = [(axis, x.values) for axis, x in enumerate(state.derived) if x is not None]
        values = [on_axis(x, axis, direction.ndim) for axis, x in there]
        curvature = functools.reduce(jnp.multiply, values, jnp.ones_like(direction[:1])) + damping
        return divide_in_bases(direction, bases, curvature), state

    return Root(init, refresh, apply, None, lambda axis: 1.0)

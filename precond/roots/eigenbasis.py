"""SOAP's root: an adaptive diagonal method in the eigenbasis of the factors."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_number, check_part
from precond.linalg import average, dot_precision, multiply, orthogonality_residual
from precond.roots.guard import Checked, accept, unchecked
from precond.roots.methods import Method, qr
from precond.roots.root import Factor, Power, Root, RootState
from precond.trees import Leaf, wide_dtype

__all__ = ["SecondMoment", "eigenbasis"]


_LEAST = 1e-7  # about what rounding makes of a zero beside entries of size 1
_ORTHOGONAL = 0.01  # a basis that is further from being one is refused


class SecondMoment(NamedTuple):
    """The second moment in the eigenbasis.

    Attributes:
      count: steps accumulated by each block, `[N]`.
      nu: the second moment of the gradient in the basis, `[N, d1, .., dk]`.
    """

    count: jax.Array
    nu: jax.Array


def eigenbasis(
    decay: ArrayLike = 0.99,
    *,
    eps: ArrayLike | None = 1e-8,
    weight: ArrayLike | None = None,
    bias_correction: bool = True,
    power: ArrayLike = 0.5,
    method: Method | None = None,
) -> Root:
    r"""Divide by a root of the second moment in the eigenbasis of the factors (SOAP; eigenvalue correction).

    With the eigenvectors $Q_i$ of each factor, $G' = G \times_1 Q_1^\top \cdots \times_k Q_k^\top$ and $\odot$ by
    element:

    $$V \leftarrow \beta V + w \, G' \odot G', \qquad
      P = \frac{M'}{(V / (1 - \beta^t))^{q} + \epsilon} \times_1 Q_1 \cdots \times_k Q_k$$

    where $M'$ is what is to be preconditioned (the momentum), in the same basis. The momentum itself stays in the
    parameter's own basis, which is the same as SOAP's, who turns it at each refresh. V is never turned: the columns
    of a refreshed basis continue those of the old one (`precond.qr`, `precond.cholesky_qr`, `precond.rotations`).

    Args:
      decay: $\beta$; 1 sums for ever, less than 1 averages.
      eps: $\epsilon$, added to the denominator, in the units of the gradient (for q = 1/2). None takes 1e-7 of what the
        denominator is for the mean of V over the block, so that no scale of the gradients matters.
      weight: w; None takes $1 - \beta$, or 1 for a sum.
      bias_correction: divide V by $1 - \beta^t$, t the number of steps.
      power: q.
      method: `precond.qr()` (the default), `precond.rotations()`, `precond.cholesky_qr()` or `precond.eigh()`.

    Returns:
      A `Root`. Before the first refresh the basis is the parameter's own, and this is Adam's or AdaGrad's rule.

    Raises:
      ValueError, TypeError: for a number out of range, or a method that is none or computes no basis.

    Reference:
      Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam, 2024, Algorithm 3; George et al., Fast
      Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis, 2018.

    Examples:
      >>> root, g = eigenbasis(decay=1.0, eps=0.0), jnp.full((1, 1, 1), -3.0)
      >>> state = root.init(g, (jnp.ones((1, 1, 1)), None))
      >>> root.apply(g, g, state)[0].item()
      -1.0
    """
    method = qr() if method is None else method
    check_part("method", method, Method, "precond.qr()")
    basis_of = method.basis
    if basis_of is None:
        raise ValueError(f"method={method.name} computes no eigenbasis: use precond.qr() or precond.eigh().")
    check_number("decay", decay, 0, 1, advice="1 sums, less than 1 averages.")
    if eps is not None:
        check_number("eps", eps, 0)
    check_number("power", power, 0)

    debiased = bias_correction and weight is None

    def init(stack: Leaf, factors: tuple[Factor | None, ...]) -> RootState:
        nu = jnp.zeros(stack.shape, wide_dtype(stack))
        bases = tuple(None if f is None else unchecked(f) for f in factors)
        return RootState(bases, SecondMoment(jnp.zeros(stack.shape[:1], jnp.int32), nu))

    def refresh(factors: jax.Array, derived: Checked, power: Power, first: jax.Array) -> Checked:
        del power
        basis = basis_of(factors, derived.matrix, first)
        damping, condition = jnp.zeros_like(basis[:, 0, 0]), jnp.ones_like(basis[:, 0, 0])  # nothing is inverted
        residual = orthogonality_residual(basis)
        return accept(basis, residual, derived, _ORTHOGONAL, damping=damping, condition=condition)

    def apply(direction: jax.Array, gradient: jax.Array, state: RootState) -> tuple[jax.Array, RootState]:
        derived, (count, nu) = state
        bases = [None if x is None else x.matrix for x in derived]
        turned = multiply(gradient, bases, transpose=True)
        count = jnp.asarray(optax.safe_increment(count))
        steps = count.reshape(-1, *[1] * (nu.ndim - 1))
        nu = average(nu, jnp.square(turned), decay, weight, count=steps if debiased else None)
        least = _LEAST * jnp.mean(nu, axis=tuple(range(1, nu.ndim)), keepdims=True) ** power if eps is None else eps
        denominator = nu**power + least
        turned = multiply(direction, bases, transpose=True)
        # Where nothing was ever seen, 0 / 0 stands for no movement.
        scaled = jnp.where(denominator > 0, turned / jnp.where(denominator > 0, denominator, 1), 0)
        return multiply(scaled, bases), RootState(derived, SecondMoment(count, nu))

    def whiten(derived: Checked, factor: jax.Array) -> jax.Array:
        basis = derived.matrix
        product = jnp.matmul(factor, basis, precision=dot_precision())
        values = jnp.sum(basis * product, axis=1, keepdims=True)
        peak = jnp.max(values, axis=2, keepdims=True)
        # Directions that were never seen are left out, of a zero factor all of them.
        inverse = jnp.where(values > 1e-12 * peak, values, jnp.inf) ** -0.5
        return jnp.einsum("mij,mkj->mik", basis * inverse, basis, precision=dot_precision())

    return Root(init, refresh, apply, whiten, lambda axis: 1.0)

"""Multiply by EK-FAC's root, which inverts the diagonal of the Fisher matrix in the eigenbasis of the factors."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_number, described
from precond.blocks import finite_blocks, keep_finite
from precond.linalg.divide import divide_in_bases
from precond.roots.eigenbasis import SecondMoment, eigenbasis
from precond.roots.guard import Checked, unchecked
from precond.roots.methods import Method
from precond.roots.moment_rule import MomentRule, decayed_max
from precond.roots.root import Factor, Power, Root, RootState
from precond.roots.transport import Transport
from precond.trees import Leaf

__all__ = ["MeasuredMoment", "corrected_inverse"]

Basis = Checked | jax.Array
"""The basis of a factor; an empty array for a diagonal factor, which needs none."""


class MeasuredMoment(SecondMoment):
    """Hold the second moments of `corrected_inverse`; a capture distinguishes EK-FAC from SOAP by this type."""


@described()
def corrected_inverse(
    damping: ArrayLike = 1e-3,
    *,
    follow: MomentRule | None = None,
    method: Method | None = None,
    transport: Transport | None = None,
) -> Root:
    r"""Divide by the measured and damped diagonal of the Fisher matrix in the eigenbasis of the factors (EK-FAC).

    Let $Q_i$ be the eigenvectors of each factor, X' the mean over examples of their squared gradients in this basis,
    and $M' = M \times_1 Q_1^\top \cdots \times_k Q_k^\top$ the direction that is preconditioned:

    $$P = \frac{M'}{S + \lambda} \times_1 Q_1 \cdots \times_k Q_k$$

    where S follows X'.

    `precond.eigen_inverse` has products of the factors' eigenvalues in place of S. They are the diagonal of the Fisher
    matrix in this basis only if it is a Kronecker product. `precond.use_measured_moments` passes X' in place of the raw
    gradients. If X' is not finite, S stays as it is.

    Args:
      damping: $\lambda$, in the units of the Fisher matrix.
      follow: the rule by which S follows X': `precond.roots.decayed_max` (the default), or `precond.roots.ema`, as
        George et al. have it.
      method: the method that refreshes bases, as in `precond.eigenbasis`. The columns of its bases must continue those
        before (not `precond.eigh`), unless S is rotated with the basis.
      transport: the rule for S when a basis is refreshed, as in `precond.eigenbasis`.

    Returns:
      A `Root`, for a refresh with `precond.every(.., delay=1, warmup=1)`, with which S belongs to one basis from its
      start. The basis of a diagonal factor is the parameter's own. Before the first measurement, S is 0.

    Raises:
      ValueError, TypeError: for numbers out of range, or a method that computes no basis.

    Reference:
      George et al., Fast Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis, 2018.

    Examples:
      >>> root, x = corrected_inverse(damping=1.0), jnp.full((1, 1, 1), 3.0)
      >>> state = root.init(x, (jnp.ones((1, 1, 1)), None))
      >>> root.apply(x, x, state)[0].item()  # 3 / (3 + 1)
      0.75
    """
    check_number("damping", damping, 0)
    base = eigenbasis(eps=damping, power=1.0, method=method, transport=transport)
    follow = decayed_max() if follow is None else follow

    def init(stack: Leaf, factors: tuple[Factor | None, ...]) -> RootState:
        measured = MeasuredMoment(*base.init(stack, ()).moments)
        return RootState(tuple(None if f is None else _start(f) for f in factors), measured)

    def refresh(factors: jax.Array, derived: Basis, power: Power, first: jax.Array) -> Basis:
        return derived if factors.ndim == 2 else base.refresh(factors, derived, power, first)

    def apply(direction: jax.Array, gradient: jax.Array, state: RootState) -> tuple[jax.Array, RootState]:
        bases = [None if x is None or isinstance(x, jax.Array) else x.matrix for x in state.derived]
        seen = finite_blocks(gradient)
        count, nu = state.moments
        given = keep_finite(seen, gradient, jnp.zeros_like(gradient)).astype(nu.dtype)
        count = jnp.asarray(optax.safe_increment(count))
        measured = keep_finite(seen, MeasuredMoment(count, follow(nu, given, count)), state.moments)
        return divide_in_bases(direction, bases, measured.nu + damping), RootState(state.derived, measured)

    def move_moments(moments: MeasuredMoment, old: Basis, new: Basis, axis: int) -> MeasuredMoment:
        assert base.transport is not None
        return moments if isinstance(old, jax.Array) else base.transport(moments, old, new, axis)

    move = None if base.transport is None else move_moments
    return Root(init, refresh, apply, base.whiten, base.power, base.padding, move)


def _start(factor: Factor) -> Basis:
    """Return identity matrices as the first bases, or an empty array for a diagonal factor, which needs no basis."""
    return unchecked(factor) if len(factor.shape) == 3 else jnp.zeros((factor.shape[0], 0), factor.dtype)

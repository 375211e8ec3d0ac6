"""EK-FAC's root: the inverse of the Fisher matrix's own diagonal in the factors' eigenbasis."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from precond.arguments import check_number, check_whole
from precond.roots.eigenbasis import eigenbasis
from precond.roots.guard import unchecked
from precond.roots.method import Method
from precond.roots.root import Power, Root, RootState

__all__ = ["corrected_inverse"]


def corrected_inverse(
    damping: ArrayLike = 1e-3, *, examples: int, decay: ArrayLike = 0.95, method: Method | None = None
) -> Root:
    r"""Divide by the second moment of the gradient in the eigenbasis of the factors, damped (EK-FAC).

    With the eigenvectors $Q_i$ of each factor, $G' = G \times_1 Q_1^\top \cdots \times_k Q_k^\top$ for the gradient of
    a batch of N examples, and $M'$ what is to be preconditioned, in the same basis:

    $$S \leftarrow \beta S + (1 - \beta) \, N \, G' \odot G', \qquad
      P = \frac{M'}{S / (1 - \beta^t) + \lambda} \times_1 Q_1 \cdots \times_k Q_k$$

    `precond.eigen_inverse` has products of the factors' eigenvalues in place of S, which are the diagonal of the Fisher
    matrix in this basis only if it is a Kronecker product. S is made of mean gradients, as SOAP's second moment is: N
    times the square of one is, in expectation, the second moment of the gradients of single examples, and N - 1 times
    the square of what they have in common, by which it is too large far from a minimum. That costs nothing but the turn
    into the basis. It is an average of the loss's own gradients, whichever Fisher matrix the factors are of.

    Args:
      damping: $\lambda$, in the units of the Fisher matrix.
      examples: N, over how many the loss is a mean.
      decay: $\beta$ of S.
      method: as in `precond.eigenbasis`. Only `precond.eigh()` reorders the columns of a basis at a refresh.

    Returns:
      A `Root`, for `root=` of `precond.scale_by_kfac` with `refresh=precond.every(.., delay=1, warmup=1)`, so that S
      is of one basis from its start. A diagonal factor's basis is the parameter's own.

    Raises:
      ValueError, TypeError: for numbers out of range, or a method that computes no basis.

    Reference:
      George et al., Fast Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis, 2018, section 3.2
      (EKFAC with a running average of the second moment of mini-batch gradients).

    Examples:
      >>> root, g = corrected_inverse(damping=1.0, examples=2), jnp.full((1, 1, 1), 3.0)
      >>> state = root.init(g, (jnp.ones((1, 1, 1)), None))
      >>> round(root.apply(g, g, state)[0].item(), 4)  # 3 / (2 * 3^2 + 1)
      0.1579
    """
    check_whole("examples", examples, least=1)
    check_number("damping", damping, 0)
    base = eigenbasis(decay, eps=damping, power=1.0, method=method)

    def init(stack: Any, factors: Sequence[Any]) -> RootState:
        moments = base.init(stack, ()).moments
        return RootState(tuple(None if f is None else _start(f) for f in factors), moments)

    def refresh(factors: jax.Array, derived: Any, power: Power, first: jax.Array) -> Any:
        return derived if factors.ndim == 2 else base.refresh(factors, derived, power, first)

    def apply(direction: jax.Array, gradient: jax.Array, state: RootState) -> tuple[jax.Array, RootState]:
        turned = tuple(None if isinstance(x, jax.Array) else x for x in state.derived)
        out, new = base.apply(direction, gradient * examples**0.5, RootState(turned, state.moments))
        return out, RootState(state.derived, new.moments)

    return Root(init, refresh, apply, base.whiten, base.power)


def _start(factor: Any) -> Any:
    """A basis; of a diagonal factor, which needs none, an empty array."""
    return unchecked(factor) if len(factor.shape) == 3 else jnp.zeros((factor.shape[0], 0), factor.dtype)

"""Run the idealised Neumann optimizer (Algorithm 1): the series of the inverse Hessian by gradients of one batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike

from precond.arguments import MissingArgumentError, check_number, check_whole, described
from precond.compiled_if_eager import compiled_if_eager
from precond.transformation import transformation
from precond.trees import Tree, real_dtype, wide_zeros_like

__all__ = ["scale_by_neumann_series"]


@described()
def scale_by_neumann_series(
    inner_rate: ArrayLike, terms: int, *, shrink: ArrayLike = 1.0
) -> optax.GradientTransformationExtraArgs:
    r"""Approximate the inverse Hessian times the gradient, by `terms` more gradients of the same batch.

    The result tends to $H^{-1} g$, with H the Hessian of the loss on the batch of g.

    $$m_0 = -\eta g, \qquad m_k = \mu m_{k-1} - \eta \nabla f(w + \mu m_{k-1}), \qquad \text{update} = -m_K$$

    On a quadratic whose Hessian has its eigenvalues in $(0, 2 / \eta)$, and with μ = 1, it tends to $H^{-1} g$. After K
    terms $(1 - \eta \lambda)^{K+1}$ of the error of each component is left, so that small $\eta \lambda$ are slow. It
    diverges if an eigenvalue is negative or above $2 / \eta$. For such a Hessian, μ < 1 solves
    $((1 - \mu) I + \mu \eta H) m = -\eta g$ in place of it, which is positive definite if $\eta = 1 / \lambda_{max}$
    and $\mu \le \lambda_{max} / (|\lambda_{min}| + \lambda_{max})$.

    The paper's outer learning rate $\eta_{out}$ multiplies $m_K$ without the factor $\eta$. It is `inner_rate` times
    the learning rate that is chained behind this transformation: `optax.scale_by_learning_rate(1.0)` takes Newton
    steps.

    Args:
      inner_rate: $\eta$.
      terms: K; each takes a gradient.
      shrink: $\mu$ of equation 9; 1 is Algorithm 1.

    Returns:
      A stateless transformation. Its `update` needs the parameters and the extra argument `grad_fn`, a function from
      parameters to the gradient of the loss on the same batch. `optax.chain` passes it on.

    Raises:
      ValueError, TypeError: for a number out of range; in `update` without `params` or `grad_fn`.

    Reference:
      Krishnan, Xiao and Saurous, Neumann Optimizer, 2018, Algorithm 1 and equation 9 (whose right-hand side has
      $m_k$ for $m_{k-1}$ by mistake).

    Examples:
      >>> tx, params = scale_by_neumann_series(0.5, terms=60), jnp.asarray([1.0, -2.0])
      >>> grad_fn = jax.grad(lambda w: 0.5 * w[0] ** 2 + 1.5 * w[1] ** 2)
      >>> step, _ = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)
      >>> step.round(5).tolist()  # to the minimum, at 0
      [1.0, -2.0]
    """
    check_number("inner_rate", inner_rate, 0)
    check_whole("terms", terms, least=0)
    check_number("shrink", shrink, 0, 1)

    def init(params: optax.Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
        *,
        grad_fn: Callable[[Tree], Tree] | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del extra
        if params is None or grad_fn is None:
            raise MissingArgumentError(
                "scale_by_neumann_series() takes more gradients of the batch: call update(gradients, state, params, "
                "grad_fn=...) with a function from parameters to the gradient on the batch of `gradients`."
            )
        start = jax.tree.map(jnp.asarray, params)

        def term(_: jax.Array, m: Tree) -> Tree:
            shrunk = jax.tree.map(lambda x: jnp.asarray(shrink, real_dtype(x)) * x, m)
            return descend(shrunk, grad_fn(optax.apply_updates(start, shrunk)))

        def descend(m: Tree, gradient: Tree) -> Tree:
            return jax.tree.map(lambda x, g: (x - jnp.asarray(inner_rate, x.dtype) * g).astype(x.dtype), m, gradient)

        m = lax.fori_loop(0, terms, term, descend(wide_zeros_like(updates), updates))
        return jax.tree.map(lambda x, g: (-x).astype(g.dtype), m, updates), state

    return compiled_if_eager(transformation(init, update))

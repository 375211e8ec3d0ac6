"""Keep the part that a compressor leaves out, and add it to the next gradient: error feedback."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from precond.arguments import described
from precond.transformation import transformation
from precond.trees import Tree, wide_zeros_like

__all__ = ["ErrorFeedbackState", "error_feedback"]


class ErrorFeedbackState(NamedTuple):
    """Hold the state of `error_feedback`.

    Attributes:
      count: the number of updates seen.
      error: the sum of all that was left out so far, float32 or wider.
      compressor: the state of the compressor.
    """

    count: jax.Array
    error: Tree
    compressor: optax.OptState


@described(explain=True)
def error_feedback(compressor: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""Compress the sum of the gradient and of all that was left out before.

    $$e \leftarrow e + g, \qquad c = C(e), \qquad e \leftarrow e - c$$

    The update is c. In front of `precond.scale_by_mfac` it is EFCP (Sparse-MFAC, `precond.mfac(.., density=0.01)`): the
    window has compressed gradients, `rows=precond.transforms.sparse_rows(..)` stores their entries alone, and the
    newest of them is preconditioned.

    Args:
      compressor: a transformation that keeps a part of its updates, such as `precond.transforms.block_top_k`.

    Returns:
      A transformation; updates have the dtype of the gradients. The part that is lost by rounding to it is fed back,
      too.

    Reference:
      Modoranu et al., Error Feedback Can Accurately Compress Preconditioners, 2023.

    Examples:
      >>> from precond.transforms import block_top_k
      >>> tx, g = error_feedback(block_top_k(0.5)), jnp.asarray([3.0, 2.0])
      >>> first, state = tx.update(g, tx.init(g))
      >>> first.tolist(), tx.update(g, state)[0].tolist()
      ([3.0, 0.0], [0.0, 4.0])
    """
    compressor = optax.with_extra_args_support(compressor)

    def init(params: optax.Params) -> ErrorFeedbackState:
        return ErrorFeedbackState(jnp.zeros([], jnp.int32), wide_zeros_like(params), compressor.init(params))

    def update(
        updates: optax.Updates, state: ErrorFeedbackState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, ErrorFeedbackState]:
        total = jax.tree.map(lambda e, g: e + jnp.asarray(g, e.dtype), state.error, updates)
        kept, inner = compressor.update(total, state.compressor, params, **extra)
        out = jax.tree.map(lambda c, g: c.astype(jnp.result_type(g)), kept, updates)
        error = jax.tree.map(lambda e, c: e - c.astype(e.dtype), total, out)
        return out, ErrorFeedbackState(jnp.asarray(optax.safe_increment(state.count)), error, inner)

    return transformation(init, update)

"""What a compressor leaves out is not lost but kept for later, and a compressor: the largest entries of each block."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from precond.arguments import check_number, check_whole

__all__ = ["ErrorFeedbackState", "block_top_k", "error_feedback"]


class ErrorFeedbackState(NamedTuple):
    """What `error_feedback` keeps.

    Attributes:
      count: updates seen.
      error: what was left out so far, float32 or wider.
      compressor: the state of the compressor.
    """

    count: jax.Array
    error: Any
    compressor: Any


def error_feedback(compressor: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""Compress the sum of the gradient and of all that was left out before.

    $$e \leftarrow e + g, \qquad c = C(e), \qquad e \leftarrow e - c$$

    and c is given on. In front of `precond.scale_by_mfac` it is EFCP (Sparse-MFAC): the window then has compressed
    gradients, and the newest of them is what is preconditioned. The window is stored densely here: the compression
    changes what is learned from, and does not yet save its memory.

    Args:
      compressor: any transformation; its updates are what is kept of what it sees: `precond.block_top_k`.

    Returns:
      A transformation; updates have the dtype of the gradients, and what is lost in rounding to it is fed back too.

    Reference:
      Modoranu et al., Error Feedback Can Accurately Compress Preconditioners, 2023.

    Examples:
      >>> tx, g = error_feedback(block_top_k(0.5)), jnp.asarray([3.0, 2.0])
      >>> first, state = tx.update(g, tx.init(g))
      >>> first.tolist(), tx.update(g, state)[0].tolist()
      ([3.0, 0.0], [0.0, 4.0])
    """
    compressor = optax.with_extra_args_support(compressor)

    def init(params: Any) -> ErrorFeedbackState:
        def zeros(p: Any) -> jax.Array:
            return jnp.zeros_like(p, dtype=jnp.promote_types(jnp.float32, jnp.result_type(p)))

        return ErrorFeedbackState(jnp.zeros([], jnp.int32), jax.tree.map(zeros, params), compressor.init(params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, ErrorFeedbackState]:
        total = jax.tree.map(lambda e, g: e + jnp.asarray(g, e.dtype), state.error, updates)
        kept, inner = compressor.update(total, state.compressor, params, **extra)
        out = jax.tree.map(lambda c, g: c.astype(jnp.result_type(g)), kept, updates)
        error = jax.tree.map(lambda e, c: e - c.astype(e.dtype), total, out)
        return out, ErrorFeedbackState(jnp.asarray(optax.safe_increment(state.count)), error, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def block_top_k(density: float = 0.01, *, block_size: int = 32768) -> optax.GradientTransformationExtraArgs:
    r"""Of each block of each parameter the entries that are largest in magnitude; zeros in place of the others.

    A parameter is read in the order of its memory and cut into blocks of `block_size`, of each of which
    $\lceil \text{density} \times \text{size} \rceil$ entries stay: how many is known when the program is compiled.

    Args:
      density: which part of the entries stays. The paper keeps 1 %.
      block_size: entries in a block; the last block of a parameter may be shorter. The size is ours.

    Returns:
      A stateless transformation, for `precond.error_feedback`. Of equal entries the first stays.

    Raises:
      ValueError, TypeError: for a density that is not above 0 and at most 1, or a block size below 1.

    Reference:
      Modoranu et al., Error Feedback Can Accurately Compress Preconditioners, 2023.

    Examples:
      >>> tx, g = block_top_k(0.5, block_size=2), jnp.asarray([[1.0, -2.0], [4.0, 3.0]])
      >>> tx.update(g, tx.init(g))[0].tolist()
      [[0.0, -2.0], [4.0, 0.0]]
    """
    if isinstance(density, jax.Array):
        raise TypeError("density is an array, but sets shapes, and must be a Python number.")
    check_number("density", density, 0, 1)
    if density == 0:
        raise ValueError("density=0: must be above 0, or no entry ever stays.")
    check_whole("block_size", block_size, least=1)

    def largest(blocks: jax.Array) -> jax.Array:
        """Of each row."""
        k = math.ceil(density * blocks.shape[1])
        _, places = jax.lax.top_k(jnp.abs(blocks), k)
        stays = jax.vmap(lambda p: jnp.zeros(blocks.shape[1], bool).at[p].set(True))(places)
        return jnp.where(stays, blocks, 0)

    def one(x: jax.Array) -> jax.Array:
        x = jnp.asarray(x)
        whole = x.size // block_size * block_size
        flat = x.reshape(-1)
        parts = [part for part in (flat[:whole].reshape(-1, block_size), flat[whole:][None]) if part.size]
        return jnp.concatenate([largest(part).reshape(-1) for part in parts]).reshape(x.shape) if parts else x

    def init(params: Any) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        del params, extra
        return jax.tree.map(one, updates), state

    return optax.GradientTransformationExtraArgs(init, update)

"""Tell by a trial whether a transformation of stacks lets the update of one block depend on the other blocks."""

import concurrent.futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from precond.arguments import Described, can_be_tried, remembered
from precond.blocks import BlockInfo

__all__ = ["mixes_blocks"]

# The first block is so large that a norm over both would clip the second. Noise is seen in the second alone.
_BLOCKS = np.asarray([[[7e9, 11e9], [13e9, 17e9]], [[1, 2], [3, 5]]], np.float32)
_PARAMS = np.asarray([[0.5, 1], [1.5, 2.5]], np.float32)
_TOLERANCE = 1e-3
_LONGEST = 1000  # a longer program takes too long to compile


def mixes_blocks(inner: optax.GradientTransformation) -> bool:
    """Return whether the updates of two blocks differ from those that each block would have alone.

    On several devices such a transformation would depend on their number. The parts of this library do not, or refuse
    divided stacks themselves. Any other transformation takes two steps, on a stack of two blocks and on each of these
    blocks alone. The result is also False where that cannot be tried, as for `precond.arguments.sign_of`.

    Args:
      inner: a transformation of stacks.

    Examples:
      >>> mixes_blocks(optax.scale_by_adam()), mixes_blocks(optax.clip_by_block_rms(1.0))
      (False, True)
    """
    known = isinstance(inner, Described) and inner.sign
    return not known and _tried(optax.with_extra_args_support(inner))


@remembered
def _tried(inner: optax.GradientTransformationExtraArgs) -> bool:
    # In a thread of its own no mesh is set, and nothing is traced.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(_differ, inner).result()


def _differ(tx: optax.GradientTransformationExtraArgs) -> bool:
    """Return whether blocks move in one way together, and in another way alone."""

    def moved(stack: jax.Array) -> jax.Array:
        tree, params = {"2x2": stack}, {"2x2": jnp.broadcast_to(_PARAMS, stack.shape)}
        _, state = tx.update(tree, tx.init(params), params, blocks=BlockInfo(batch_axes=1))
        out: Any = tx.update(tree, state, params, blocks=BlockInfo(batch_axes=1))[0]
        return out["2x2"]

    def together_and_alone() -> tuple[jax.Array, jax.Array]:
        blocks = jnp.asarray(_BLOCKS)
        return moved(blocks), jnp.concatenate([moved(blocks[:1]), moved(blocks[1:])])

    try:
        traced = jax.jit(together_and_alone).trace()
        if not can_be_tried(traced.jaxpr, longest=_LONGEST):
            return False
        together, alone = traced.lower().compile()()
    except Exception:  # it may need further arguments, or depend on what is traced outside
        return False
    return not np.allclose(together, alone, rtol=_TOLERANCE, atol=0)

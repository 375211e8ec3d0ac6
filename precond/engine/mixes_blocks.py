"""Tell by a trial whether a transformation of stacks lets the update of one block depend on the other blocks."""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from precond.arguments import Described, can_be_tried
from precond.blocks import BlockInfo

__all__ = ["mixes_blocks"]

# The first block is so large that a norm over both would clip the second. Noise is seen in the second alone.
_BLOCKS = np.asarray([[[7e9, 11e9], [13e9, 17e9]], [[1, 2], [3, 5]]], np.float32)
_PARAMS = np.asarray([[0.5, 1], [1.5, 2.5]], np.float32)
_TOLERANCE = 1e-3
_LONGEST = 1000  # a longer program takes too long, operation by operation


def mixes_blocks(inner: optax.GradientTransformation) -> bool:
    """Return whether the updates of two blocks differ from those that each block would have alone.

    On several devices such a transformation would depend on their number. The parts of this library do not, or refuse
    divided stacks themselves. Any other transformation takes two steps, on a stack of two blocks and on each
    of these blocks alone.
    False is also the answer where that cannot be tried, as for `precond.arguments.sign_of`.

    Args:
      inner: a transformation of stacks.

    Examples:
      >>> mixes_blocks(optax.scale_by_adam()), mixes_blocks(optax.clip_by_block_rms(1.0))
      (False, True)
    """
    if isinstance(inner, Described) and inner.sign:
        return False
    try:
        return _kept(weakref.ref(inner.init), weakref.ref(inner.update))
    except TypeError:  # there is no weak reference to some functions
        return _tried(inner.init, inner.update)
    except _NotHereError:
        return False


class _NotHereError(Exception):
    """Say that a trial cannot be computed here, and may be elsewhere."""


@functools.lru_cache(maxsize=256)
def _kept(init: Callable[[], Any], update: Callable[[], Any]) -> bool:
    return _tried(init(), update())


def _tried(init: Callable[..., Any], update: Callable[..., Any]) -> bool:
    tx = optax.with_extra_args_support(optax.GradientTransformationExtraArgs(init, update))

    def moved(stack: jax.Array) -> jax.Array:
        tree, params = {"2x2": stack}, {"2x2": jnp.broadcast_to(_PARAMS, stack.shape)}
        _, state = tx.update(tree, tx.init(params), params, blocks=BlockInfo(batch_axes=1))
        out: Any = tx.update(tree, state, params, blocks=BlockInfo(batch_axes=1))[0]
        return out["2x2"]

    def together_and_alone() -> tuple[jax.Array, jax.Array]:
        blocks = jnp.asarray(_BLOCKS)
        return moved(blocks), jnp.concatenate([moved(blocks[:1]), moved(blocks[1:])])

    try:
        traced = jax.make_jaxpr(together_and_alone)()
    except Exception:  # it may need further arguments
        return False
    if any(isinstance(x, Tracer) for x in traced.consts):
        raise _NotHereError
    if not can_be_tried(traced, longest=_LONGEST):
        return False
    with jax.ensure_compile_time_eval():
        together, alone = together_and_alone()
    return not np.allclose(together, alone, rtol=_TOLERANCE, atol=0)

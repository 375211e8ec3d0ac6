"""Count what a state weighs on one device, by what it is for."""

import math
from collections import Counter
from typing import Any

import jax

from precond.blocks import StackedState
from precond.engine import KroneckerState
from precond.planning.count import shard_shape
from precond.roots import RootState

__all__ = ["account"]

_TOLD = (StackedState, KroneckerState, RootState)


def account(state: Any, role: str = "rest") -> Counter[str]:
    """Count the bytes on one device by role.

    The roles are "statistics", "roots" (or bases), "momentum" (all else that is kept by block, such as second moments)
    and "rest" (of parameters without a view, and outside of `precond.blocked`).

    Args:
      state: the state of an optimizer; anything with shapes and dtypes, and shardings where it is divided.
      role: the role of what no state of this library tells.

    Examples:
      >>> import optax
      >>> from precond.engine import blocked
      >>> tx = blocked(optax.trace(0.9), otherwise=optax.identity())
      >>> params = {"kernel": jax.ShapeDtypeStruct((4, 6), "float32")}
      >>> # Five numbers that say whose the block is are included.
      >>> account(jax.eval_shape(tx.init, params))["momentum"]
      116
    """
    total: Counter[str] = Counter()
    for x in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, _TOLD)):
        if isinstance(x, StackedState):
            total += account((x.stacks, x.block_ids), "momentum")
            numbers = (x.blocks_skipped, x.steps_skipped, x.fingerprint, x.meaning, x.foreign)
            total += account(numbers, role)
        elif isinstance(x, KroneckerState):
            total += account(x.statistics, "statistics") + account((x.count, x.roots, x.momentum), "momentum")
        elif isinstance(x, RootState):
            total += account(x.derived, "roots") + account(x.moments, "momentum")
        else:
            total[role] += math.prod(shard_shape(x)) * x.dtype.itemsize
    return total

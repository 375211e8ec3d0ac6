"""Compile updates outside of `jax.jit`, at their first call and only then. This is floor 0 of the library."""

import functools
from typing import Any

import jax
import numpy as np
import optax
from jax.core import Tracer

__all__ = ["compiled_if_eager"]

_NUMBERS = (np.ndarray, np.generic, int, float, complex)


def compiled_if_eager(tx: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """Compile the update of a transformation that is called outside of `jax.jit`.

    JAX would run it operation by operation, and compile its conditions and loops again in every call. Inside of a
    transformation of JAX nothing changes. Arrays and numbers among the extra arguments may change from call to call;
    for each other value of anything else, such as a function, the update is compiled once more. The programs of the
    last eight values are kept, and with them these values.

    Args:
      tx: a transformation.

    Examples:
      >>> traced = []
      >>> tx = optax.stateless(lambda updates, params: traced.append(updates) or updates)
      >>> tx = compiled_if_eager(optax.with_extra_args_support(tx))
      >>> _ = [tx.update(np.ones(2), tx.init(None)) for _ in range(3)]
      >>> len(traced)
      1
    """

    # A new function for each step holds a batch, so that not all of them may be kept.
    @functools.lru_cache(maxsize=8)
    def compiled(treedef: Any, still: tuple[Any, ...]) -> Any:
        def run(arrays: dict[int, Any]) -> Any:
            leaves = [arrays.get(i, x) for i, x in enumerate(still)]
            updates, state, params, extra = treedef.unflatten(leaves)
            return tx.update(updates, state, params, **extra)

        return jax.jit(run)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        leaves, treedef = jax.tree.flatten((updates, state, params, extra))
        if any(isinstance(x, Tracer) for x in leaves):
            return tx.update(updates, state, params, **extra)
        arrays = {i: x for i, x in enumerate(leaves) if _is_array(x)}
        still = tuple(None if i in arrays else x for i, x in enumerate(leaves))
        if not _hashable(treedef, still):
            return tx.update(updates, state, params, **extra)
        return compiled(treedef, still)(arrays)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def _is_array(x: Any) -> bool:
    if isinstance(x, jax.Array):
        return True
    return isinstance(x, _NUMBERS) and not isinstance(x, bool) and np.result_type(x).kind != "O"


def _hashable(*given: Any) -> bool:
    try:
        hash(given)
    except TypeError:
        return False
    return True

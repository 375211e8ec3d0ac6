"""Accumulate sums and moving averages by the rule that statistics and second moments share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

__all__ = ["average", "may_grow", "weighted", "weights_of"]


def average(
    old: jax.Array,
    new: jax.Array,
    decay: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    count: jax.Array | None = None,
) -> jax.Array:
    r"""Accumulate $\beta x + w y$ in the dtype of `old`; given a count, as a weighted mean of all terms so far.

    Args:
      old: x, the sum or average so far, real or complex.
      new: y, the term to add, of the same shape.
      decay: $\beta$; 1 makes a sum, less than 1 an exponential moving average.
      weight: $w$; None takes $1 - \beta$, or 1 if $\beta$ is 1.
      count: the number t of this term, from 1. If it is given, a moving average is kept free of the bias of its start,
        as $x + a (y - x)$ with $a = (1 - \beta) / (1 - \beta^t)$. A division by $1 - \beta^t$ gives the same, but takes
        another pass over the memory.

    Examples:
      >>> average(jnp.float32(2.0), jnp.float32(4.0), decay=0.75).item()
      2.5
      >>> average(jnp.float32(2.0), jnp.float32(4.0), decay=1.0).item()
      6.0
      >>> average(jnp.float32(0.0), jnp.float32(4.0), decay=0.75, count=jnp.int32(1)).item()
      4.0
    """
    real = jnp.finfo(old.dtype).dtype
    decay = _cast(decay, real)
    keep, rate = weights_of(decay, real, weight, count=count)
    return weighted(old, new, keep, rate, grows=may_grow(decay) or weight is not None)


def may_grow(decay: ArrayLike) -> bool:
    """Return whether an average with this decay may be a sum, which can overflow: the decay is 1, or an array.

    Examples:
      >>> may_grow(1.0), may_grow(0.9)
      (True, False)
    """
    return isinstance(decay, jax.Array) or decay == 1


def weighted(old: jax.Array, new: jax.Array, keep: ArrayLike, rate: ArrayLike, *, grows: bool) -> jax.Array:
    """Add the average so far and a new term with their weights, in the dtype of the average.

    Args:
      old: the average or sum so far.
      new: the new term.
      keep: the weight of the average so far.
      rate: the weight of the new term.
      grows: whether the result may grow beyond its type. It stays at the largest number then, if it is real.

    Examples:
      >>> weighted(jnp.float32(2.0), jnp.float32(4.0), 0.5, 0.25, grows=False).item()
      2.0
    """
    out = jnp.add(keep * old, rate * new.astype(old.dtype))
    top = float(jnp.finfo(out.dtype).max)
    return jnp.clip(out, -top, top) if grows and not jnp.iscomplexobj(out) else out


def weights_of(
    decay: ArrayLike, dtype: jax.typing.DTypeLike, weight: ArrayLike | None = None, *, count: jax.Array | None = None
) -> tuple[Any, Any]:
    """Return the weights with which `average` takes the average so far and the new term.

    Args:
      decay: as in `average`.
      dtype: the real dtype of the weights.
      weight: as in `average`.
      count: as in `average`; with several counts there are as many weights.

    Examples:
      >>> [x.tolist() for x in weights_of(0.5, "float32", count=jnp.asarray([1, 2]))]
      [[0.0, 0.3333333134651184], [1.0, 0.6666666865348816]]
    """
    decay = _cast(decay, dtype)

    def unless_sum(x: Any) -> Any:
        if isinstance(decay, jax.Array):
            return jnp.where(decay == 1, 1, x)
        return 1 if decay == 1 else x

    keep, rate = decay, unless_sum(1 - decay) if weight is None else jnp.asarray(weight, dtype)
    if count is not None:
        seen = 1 - decay ** count.astype(dtype)
        rate = unless_sum((1 - decay) / unless_sum(seen))
        keep = unless_sum(1 - rate)
    return keep, rate


def _cast(decay: ArrayLike, dtype: jax.typing.DTypeLike) -> Any:
    """Return a decay in this dtype. With a plain number, the weights are computed while the program is traced."""
    if isinstance(decay, jax.Array):  # of optax.inject_hyperparams
        return decay.astype(dtype)
    return np.asarray(decay, dtype)[()]

"""Make transformations compute in float32 or wider for gradients of any dtype. This is floor 0 of the library."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

__all__ = ["widen", "widened"]


def widen(tree: Any) -> Any:
    """Widen arrays of 16 bits to float32; any other array stays as it is.

    Args:
      tree: a tree of arrays, or of anything with shape and dtype.

    Examples:
      >>> [x.dtype.name for x in widen([jnp.ones(2, jnp.float16), jnp.ones(2, int)])]
      ['float32', 'int32']
    """

    def one(x: Any) -> Any:
        dtype = jnp.result_type(x)
        narrow = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize == 2  # JAX cannot compute in 8 bits
        return jnp.astype(jnp.asarray(x), jnp.float32) if narrow else x

    return jax.tree.map(one, tree)


def widened(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Give a transformation gradients and parameters in float32 or wider, and round only its updates.

    Args:
      tx: a transformation.

    Raises:
      ValueError: from `init`, if some part of it needs parameters in bfloat16, as its state says by the attribute
        `needs_narrow_params`.

    Examples:
      >>> # The square of 1e-4 is 0 in float16.
      >>> tx, g = (
      ...     widened(optax.scale_by_rms(eps=0.0)),
      ...     jnp.full(2, 1e-4, jnp.float16),
      ... )
      >>> tx.update(g, tx.init(g))[0].round(2).tolist()
      [3.16015625, 3.16015625]
    """
    inner = optax.with_extra_args_support(tx)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        moved, new = inner.update(widen(updates), state, widen(params), **extra)
        return jax.tree.map(lambda m, u: m.astype(jnp.result_type(u)), moved, updates), new

    def init(params: optax.Params) -> optax.OptState:
        state = inner.init(widen(params))
        jax.tree.leaves(state, is_leaf=_check_narrow)
        return state

    return optax.GradientTransformationExtraArgs(init, update)


def _check_narrow(part: Any) -> bool:
    """Raise if a part of a state belongs to a transformation that must see parameters in bfloat16; return False."""
    if getattr(part, "needs_narrow_params", False):
        raise ValueError(
            "with_stochastic_rounding needs the parameters in bfloat16, and sees them in float32 here. Put it outside: "
            "with_stochastic_rounding(accumulate(..))."
        )
    return False

"""Refuse a parameter that is divided over explicit mesh axes where a transformation reads it as one piece."""

import jax

__all__ = ["refuse_sharded"]


def refuse_sharded(name: str, x: jax.Array) -> jax.Array:
    """Return the parameter, or raise if explicit mesh axes divide it.

    Args:
      name: the name of the function that reads the whole parameter.
      x: a gradient.

    Raises:
      ValueError: saying where to put it.

    Examples:
      >>> import jax.numpy as jnp
      >>> refuse_sharded("low_rank", jnp.ones(2)).shape
      (2,)
    """
    axes = [axis for axis in jax.typeof(x).sharding.spec if axis is not None]
    if axes:
        raise ValueError(
            f"{name}() reads each parameter as one piece, and one of shape {x.shape} is divided over {axes} here: put "
            f"it into a jax.shard_map of your own, where it reads shards, or pass gradients that "
            f"jax.sharding.reshard made whole."
        )
    return x

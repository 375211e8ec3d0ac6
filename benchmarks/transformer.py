"""The parameters of a transformer, as a tree of arrays: what the benchmarks optimize."""

import jax
import jax.numpy as jnp


def parameters(layers: int, width: int = 256, hidden: int = 1024) -> dict:
    """Random parameters: four square projections, two of the feed-forward part, two norms a layer."""

    def layer(key: jax.Array) -> dict:
        shapes = dict.fromkeys(("query", "key", "value", "out"), (width, width))
        shapes |= {"up": (width, hidden), "down": (hidden, width)}
        keys = jax.random.split(key, len(shapes))
        kernels = {
            name: {"kernel": 0.02 * jax.random.normal(k, shape)}
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        return kernels | {"norm_1": {"scale": jnp.ones(width)}, "norm_2": {"scale": jnp.ones(width)}}

    keys = jax.random.split(jax.random.key(0), layers)
    return {f"layer_{i:02}": layer(key) for i, key in enumerate(keys)}


def gradients(params: dict, seed: int) -> dict:
    """Random gradients of full rank."""
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return treedef.unflatten([jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])

"""Count examples in the backward pass, for loops that pass gradients alone."""

import functools
import math

import jax
import jax.numpy as jnp

from precond.layers.tap import partitioned, traced_one
from precond.trees import Tree, vary, varying

__all__ = ["count_examples"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _count(batch: int, y: jax.Array, counters: Tree) -> jax.Array:
    del batch, counters
    return y


def _forward(batch: int, y: jax.Array, counters: Tree) -> tuple[jax.Array, Tree]:
    del batch
    return y, counters


def _backward(batch: int, counters: Tree, g: jax.Array) -> tuple[jax.Array, Tree]:
    count = math.prod(g.shape[:batch]) * partitioned(traced_one, g)(g)
    return g, jax.tree.map(lambda c: jnp.broadcast_to(count, c.shape).astype(c.dtype), counters)


_count.defvjp(_forward, _backward)


def count_examples(outputs: Tree, counters: Tree, batch: int = 1) -> Tree:
    """Return `outputs` themselves; in the backward pass, the cotangent of each counter is the number of examples.

    As with the sums of a tap, the numbers of maps and of the devices that share a batch add up by themselves.

    Args:
      outputs: a tree that a model returns; the examples are counted in its first floating array.
      counters: a tree of zeros, `[..]`; each entry counts.
      batch: how many leading axes number the examples.

    Examples:
      >>> jax.grad(lambda c: jnp.mean(count_examples(jnp.ones((5, 2)), c)))(
      ...     jnp.zeros(2)
      ... ).tolist()
      [5.0, 5.0]
    """
    leaves, treedef = jax.tree.flatten(outputs)
    first = next((i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.inexact)), None)
    if first is not None and jax.tree.leaves(counters):
        leaves[first] = _count(batch, leaves[first], vary(counters, varying(leaves[first])))
    return treedef.unflatten(leaves)

"""Hold statistics of the gradients whose mean a step takes: how many they are, and how far apart."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from precond.arguments import check_whole, described
from precond.trees import Tree, varying, wide

__all__ = [
    "Metric",
    "Replicas",
    "Squares",
    "local_squares",
    "merge",
    "stacked",
    "sum_over_axes",
    "summed",
    "whole_squares",
]

Metric = Callable[[Tree], Tree]
"""A linear map of gradients, to a tree of the same structure, whose results are measured."""

Squares = Callable[[Tree], Tree]
"""From a gradient to the squared norm of each of its leaves."""


class Replicas(NamedTuple):
    r"""Hold statistics of n gradients beside their mean; an update takes them as `replicas`.

    The mean is $\bar g$.

    The sum is centred, since $\sum_i \|g_i\|^2 - n \|\bar g\|^2$ cancels in float32 if there is little noise.

    Attributes:
      count: n, over all replicas and micro-batches.
      parts: the number of gradients that make up one step's gradient. It is n, unless the statistics are from more than
        one step.
      deviation: the deviation of each leaf, $\sum_i \|g_i - \bar g\|^2$.
      square: the squared norm of the mean of each leaf, $\|\bar g\|^2$.
    """

    count: ArrayLike
    parts: ArrayLike
    deviation: Tree
    square: Tree

    @property
    def sums(self) -> Tree:
        r"""For each leaf, $\sum_i \|g_i\|^2$."""
        return jax.tree.map(lambda d, s: d + self.count * s, self.deviation, self.square)


def local_squares(tree: Tree, metric: Metric | None = None) -> Tree:
    """Return the squared norm of each leaf's part on this device."""
    measured = wide(tree if metric is None else metric(wide(tree)))
    return jax.tree.map(lambda x: jnp.sum(jnp.square(jnp.abs(x))), measured)


def sum_over_axes(tree: Tree, axes: Any) -> Tree:
    """Sum each scalar over its own tuple of mesh axes, by one all-reduce for each different tuple."""
    leaves, treedef = jax.tree.flatten(tree)
    names = [tuple(sorted(a)) for a in treedef.flatten_up_to(axes)]
    for group in sorted(set(names) - {()}):
        members = [i for i, name in enumerate(names) if name == group]
        dtype = jnp.result_type(*[leaves[i] for i in members])
        total = jax.lax.psum(jnp.stack([leaves[i].astype(dtype) for i in members]), group)
        for row, i in enumerate(members):
            leaves[i] = total[row]
    return treedef.unflatten(leaves)


def whole_squares(tree: Tree, metric: Metric | None = None) -> Tree:
    """Return the squared norm of each leaf; inside a `jax.shard_map` that checks types, over all its shards.

    Args:
      tree: a gradient, or its shards.
      metric: a map of gradients whose results are measured; None is the identity.

    Examples:
      >>> whole_squares({"a": jnp.asarray([3.0, 4.0])})["a"].item()
      25.0
    """
    squares = local_squares(tree, metric)
    return sum_over_axes(squares, jax.tree.map(varying, squares))


def merge(
    mean: Tree, deviation: Tree, count: ArrayLike, other: Tree, more: Tree, others: ArrayLike, squares: Squares
) -> tuple[Tree, Tree]:
    r"""Merge the means and the deviations of two sets of gradients.

    $$\bar g = \bar a + \frac{k}{n + k} \Delta, \quad
      D = D_a + D_b + \frac{n k}{n + k} \|\Delta\|^2, \quad \Delta = \bar b - \bar a$$

    Args:
      mean: the mean of the first set, float32 or wider.
      deviation: the deviation of the first set, by leaf.
      count: n, the number of gradients in the first set; it may be 0.
      other: the mean of the second set.
      more: the deviation of the second set.
      others: k, the number of gradients in the second set.
      squares: a function from a gradient to the squared norms of its leaves.

    Reference:
      Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.

    Examples:
      >>> mean, deviation = merge(
      ...     jnp.float32(1.0), jnp.float32(0.0), 1, 3.0, 0.0, 1, whole_squares
      ... )
      >>> mean.item(), deviation.item()
      (2.0, 2.0)
    """
    share = others / jnp.asarray(count + others, jnp.result_type(float))
    between = count * share
    apart = jax.tree.map(lambda a, b: b.astype(a.dtype) - a, mean, wide(other))
    square = squares(apart)
    deviation = jax.tree.map(lambda a, b, s: (a + b + between * s).astype(a.dtype), deviation, more, square)
    return jax.tree.map(lambda a, d: (a + share * d).astype(a.dtype), mean, apart), deviation


@described()
def stacked(gradients: Tree, metric: Metric | None = None) -> tuple[Tree, Replicas]:
    """Compute the mean and the statistics of gradients that are stacked in every leaf, `[n, ..]`.

    Args:
      gradients: a tree of arrays with the same leading axis.
      metric: a map of gradients whose results are measured; None is the identity.

    Returns:
      The mean, in the gradients' dtype, and `Replicas`.

    Raises:
      ValueError: if the leading axes differ.

    Examples:
      >>> mean, replicas = stacked(jnp.asarray([[1.0, 0.0], [0.0, 1.0]]))
      >>> mean.tolist(), replicas.count, replicas.deviation.item(), replicas.sums.item()
      ([0.5, 0.5], 2, 1.0, 2.0)
    """
    counts = {jnp.shape(x)[:1] for x in jax.tree.leaves(gradients)}
    if len(counts) != 1 or counts == {()}:
        raise ValueError(
            f"stacked() got leaves with leading axes {sorted(counts)}: every leaf must be [n, ..] for the same n."
        )
    (n,) = counts.pop()
    mean = jax.tree.map(lambda g: jnp.mean(g, axis=0), wide(gradients))
    apart = jax.tree.map(lambda g, m: g - m, wide(gradients), mean)
    deviation = jax.tree.map(jnp.sum, jax.vmap(lambda tree: local_squares(tree, metric))(apart))
    narrow = jax.tree.map(lambda m, g: m.astype(jnp.result_type(g)), mean, gradients)
    return narrow, Replicas(n, n, deviation, local_squares(mean, metric))


@described()
def summed(count: int, squares: Tree, mean: Tree) -> Replicas:
    r"""Make statistics from sums of squared norms that a training loop has computed itself.

    Args:
      count: the number of gradients.
      squares: $\sum_i \|g_i\|^2$: a number, or one for each leaf of the mean.
      mean: the mean of the gradients.

    Returns:
      `Replicas`, with one leaf if `squares` is one number.

    Raises:
      ValueError, TypeError: for a count below 1, or squares of another structure than the mean.

    Examples:
      >>> summed(2, 2.0, {"a": jnp.asarray([0.5, 0.5])}).deviation.item()
      1.0
    """
    check_whole("count", count, least=1)
    of_mean = local_squares(mean)
    if len(jax.tree.leaves(squares)) == 1:
        squares = jax.tree.leaves(squares)[0]
        of_mean = jnp.sum(jnp.stack(jax.tree.leaves(of_mean)))
    elif jax.tree.structure(squares) != jax.tree.structure(of_mean):
        raise ValueError("squares= must be one number, or a tree of numbers with the structure of mean=.")
    deviation = jax.tree.map(lambda s, m: jnp.maximum(s - count * m, 0), squares, of_mean)
    return Replicas(count, count, deviation, of_mean)

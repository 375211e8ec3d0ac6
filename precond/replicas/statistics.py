"""What a step knows of the gradients whose mean it takes: how many they are, and how far apart."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from precond.arguments import check_whole

__all__ = [
    "Metric",
    "Replicas",
    "Squares",
    "local_squares",
    "merge",
    "stacked",
    "sum_over_axes",
    "summed",
    "varying",
    "whole_squares",
    "wide",
    "wide_zeros",
]

Metric = Callable[[Any], Any]
"""A linear map of gradients: norms are those of what it returns, a tree of the same structure."""

Squares = Callable[[Any], Any]
"""From a gradient to the squared norm of each of its leaves."""


class Replicas(NamedTuple):
    r"""Statistics of n gradients beside their mean $\bar g$; the extra argument `replicas` of an update.

    Kept is the centred sum, as $\sum_i \|g_i\|^2 - n \|\bar g\|^2$ cancels in float32 where there is little noise.

    Attributes:
      count: n, of all replicas and micro-batches.
      parts: how many of them make up the gradient of one step: n, but for statistics from more than one step.
      deviation: of each leaf $\sum_i \|g_i - \bar g\|^2$.
      square: of each leaf $\|\bar g\|^2$.
    """

    count: ArrayLike
    parts: ArrayLike
    deviation: Any
    square: Any

    @property
    def sums(self) -> Any:
        r"""Of each leaf $\sum_i \|g_i\|^2$."""
        return jax.tree.map(lambda d, s: d + self.count * s, self.deviation, self.square)


def wide(tree: Any) -> Any:
    """The leaves as arrays of float32 or wider.

    Examples:
      >>> wide(jnp.ones(2, jnp.bfloat16)).dtype
      dtype('float32')
    """
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.promote_types(jnp.float32, jnp.result_type(x))), tree)


def wide_zeros(tree: Any) -> Any:
    """Zeros of float32 or wider that vary over the devices that the leaves do, as what is carried in a loop must.

    Examples:
      >>> wide_zeros(jnp.ones(2, jnp.bfloat16)).tolist()
      [0.0, 0.0]
    """

    def one(x: Any) -> jax.Array:
        zeros = jnp.zeros(jnp.shape(x), jnp.promote_types(jnp.float32, jnp.result_type(x)))
        missing = () if isinstance(x, jax.ShapeDtypeStruct) else tuple(sorted(varying(x)))
        return jax.lax.pcast(zeros, missing, to="varying") if missing else zeros

    return jax.tree.map(one, tree)


def varying(x: Any) -> frozenset[str]:
    """The mesh axes over whose devices a value may differ, inside a `jax.shard_map` that keeps account of them.

    Examples:
      >>> varying(jnp.ones(2))
      frozenset()
    """
    kind: Any = jax.typeof(x)
    # The name has changed with JAX 0.10.2.
    return kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma


def local_squares(tree: Any, metric: Metric | None = None) -> Any:
    """The squared norm of each leaf, of the part that lies on this device."""
    measured = wide(tree if metric is None else metric(wide(tree)))
    return jax.tree.map(lambda x: jnp.sum(jnp.square(jnp.abs(x))), measured)


def sum_over_axes(tree: Any, axes: Any) -> Any:
    """Each scalar summed over its own tuple of mesh axes, by one all-reduce for each different tuple."""
    leaves, treedef = jax.tree.flatten(tree)
    names = [tuple(sorted(a)) for a in treedef.flatten_up_to(axes)]
    for group in sorted(set(names) - {()}):
        members = [i for i, name in enumerate(names) if name == group]
        dtype = jnp.result_type(*[leaves[i] for i in members])
        total = jax.lax.psum(jnp.stack([leaves[i].astype(dtype) for i in members]), group)
        for row, i in enumerate(members):
            leaves[i] = total[row]
    return treedef.unflatten(leaves)


def whole_squares(tree: Any, metric: Metric | None = None) -> Any:
    """The squared norm of each leaf; inside a `jax.shard_map` that keeps account of shards, of all shards together.

    Args:
      tree: a gradient, or its shards.
      metric: norms are those of what it returns; None is the identity.

    Examples:
      >>> whole_squares({"a": jnp.asarray([3.0, 4.0])})["a"].item()
      25.0
    """
    squares = local_squares(tree, metric)
    return sum_over_axes(squares, jax.tree.map(varying, squares))


def merge(
    mean: Any, deviation: Any, count: ArrayLike, other: Any, more: Any, others: ArrayLike, squares: Squares
) -> tuple[Any, Any]:
    r"""Mean and deviation of two sets of gradients together.

    $$\bar g = \bar a + \frac{k}{n + k} \Delta, \quad
      D = D_a + D_b + \frac{n k}{n + k} \|\Delta\|^2, \quad \Delta = \bar b - \bar a$$

    Args:
      mean: of the first set, float32 or wider.
      deviation: of the first set, by leaf.
      count: n, how many those are; may be 0.
      other: mean of the second set.
      more: deviation of the second set.
      others: k, how many those are.
      squares: the squared norms of the leaves of a gradient.

    Reference:
      Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.

    Examples:
      >>> mean, deviation = merge(jnp.float32(1.0), jnp.float32(0.0), 1, 3.0, 0.0, 1, whole_squares)
      >>> mean.item(), deviation.item()
      (2.0, 2.0)
    """
    share = others / jnp.asarray(count + others, jnp.result_type(float))
    between = count * share
    apart = jax.tree.map(lambda a, b: b.astype(a.dtype) - a, mean, wide(other))
    square = squares(apart)
    deviation = jax.tree.map(lambda a, b, s: (a + b + between * s).astype(a.dtype), deviation, more, square)
    return jax.tree.map(lambda a, d: (a + share * d).astype(a.dtype), mean, apart), deviation


def stacked(gradients: Any, metric: Metric | None = None) -> tuple[Any, Replicas]:
    """The mean of gradients that lie one behind the other in every leaf, `[n, ..]`, and their statistics.

    Args:
      gradients: a tree of arrays with the same leading axis.
      metric: norms are those of what it returns; None is the identity.

    Returns:
      The mean, of the gradients' dtype, and `Replicas`.

    Raises:
      ValueError: where the leading axes differ.

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


def summed(count: int, squares: Any, mean: Any) -> Replicas:
    r"""Statistics from sums of squared norms that a training loop has made itself.

    Args:
      count: how many gradients there were.
      squares: $\sum_i \|g_i\|^2$: a number, or one for each leaf of the mean.
      mean: the mean of the gradients.

    Returns:
      `Replicas`; of one leaf where `squares` is one number.

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

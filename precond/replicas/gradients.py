"""Compute mean gradients with statistics: of a whole batch, of groups of it, or of micro-batches in a loop."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from precond.arguments import check_whole, described
from precond.replicas.replicas import (
    Metric,
    Replicas,
    Squares,
    local_squares,
    merge,
    sum_over_axes,
)
from precond.trees import Tree, varying, wide, wide_zeros_like

__all__ = ["GradientFunction", "gradients", "gradients_by", "over_groups", "over_micro_batches"]

Axes = frozenset[str]


class Spread(Protocol):
    """Compute a gradient and its deviation: the type of `GradientFunction.spread`."""

    def __call__(self, params: Tree, batch: Any, axes: Axes) -> tuple[Any, Tree, Tree]:
        """Compute a gradient, and how far apart those are that it is the mean of.

        Args:
          params: a tree of arrays.
          batch: the batch, as the loss takes it.
          axes: the mesh axes that are averaged over further out, as far as types tell of them.

        Returns:
          The value, the mean gradient (float32 or wider), and the deviation of each of its leaves.
        """
        ...


# It is not a tuple, since jax.jit keeps weak references to the functions it compiles, and a tuple cannot have any.
@dataclasses.dataclass(frozen=True)
class GradientFunction:
    """Compute a mean gradient and its statistics: `value, mean, replicas = f(params, batch)`.

    Attributes:
      spread: a function from params, batch and mesh axes to the value, the mean gradient and the deviation of each leaf
        (`Spread`).
      squares: a function from such a gradient to the squared norms of its leaves.
      count: a function that returns the number of gradients of which the mean is taken.
    """

    spread: Spread
    squares: Squares
    count: Callable[[], int]

    def __call__(self, params: Tree, batch: Any) -> tuple[Any, Tree, Replicas]:
        """Return the loss (with its auxiliary values), the mean gradient in the dtypes of params, and statistics."""
        value, mean, deviation = self.spread(params, batch, frozenset())
        square = self.squares(mean)
        # Nothing around has summed over the shards of a model.
        deviation, square = (sum_over_axes(x, jax.tree.map(varying, x)) for x in (deviation, square))
        mean = jax.tree.map(lambda m, p: m.astype(jnp.result_type(p)), mean, params)
        return value, mean, Replicas(self.count(), self.count(), deviation, square)


@described()
def gradients(loss: Callable[..., Any], *, has_aux: bool = False, metric: Metric | None = None) -> GradientFunction:
    """Make one gradient of a loss on the whole batch, without any spread; the `over_` functions take it.

    Args:
      loss: `loss(params, batch)`, the mean over the examples of the batch, with its regulariser. Under `jax.shard_map`
        and `jax.pmap` it is the mean over this device's examples, without a `pmean`.
      has_aux: whether the loss returns `(value, aux)`; the tree of numbers `aux` is averaged as the value is.
      metric: a map of gradients whose results are measured (`precond.replicas.adam_metric`); None is the identity.

    Returns:
      A function `f(params, batch)` to the value, the mean gradient and `Replicas`. Inside a `jax.shard_map` it
      refuses to run where JAX would silently sum gradients over devices.

    Raises:
      ValueError: in a call, for a loss that differs between devices, which needs `over_devices`, or for a loss that is
        already averaged over them.

    Examples:
      >>> f = gradients(lambda w, x: jnp.mean(w * x))
      >>> value, mean, replicas = f(2.0, jnp.asarray([1.0, 3.0]))
      >>> value.item(), mean.item(), replicas.count, replicas.square.item()
      (4.0, 2.0, 1, 4.0)
    """
    return gradients_by(jax.value_and_grad(loss, has_aux=has_aux), metric=metric)


@described()
def gradients_by(function: Callable[..., tuple[Any, Any]], *, metric: Metric | None = None) -> GradientFunction:
    """Make one gradient by any function, such as one that clips by example or returns K-FAC's factors.

    For K-FAC, put the factors beside the value, and they are averaged as the gradient is:

    ```python
    def with_factors(params, batch):
        value, gradient, factors = value_grad_factors(...)(params, *batch, key=...)
        return (value, factors), gradient
    ```

    Args:
      function: a function from params and batch to the value and the gradient, as `jax.value_and_grad(loss)` is. In
        place of the value it may return a tree with the value as its first leaf. Both are means over the examples of
        the batch.
      metric: as in `gradients`.

    Returns:
      A function `f(params, batch)` to the value or tree, the mean gradient and `Replicas`.

    Raises:
      ValueError: in a call, as `gradients`.

    Examples:
      >>> f = over_groups(
      ...     gradients_by(lambda w, x: ((jnp.mean(w * x), x[0]), jnp.mean(x))), 2
      ... )
      >>> (value, first), mean, replicas = f(2.0, jnp.asarray([1.0, 3.0]))
      >>> value.item(), first.item(), mean.item(), replicas.deviation.item()
      (4.0, 2.0, 2.0, 2.0)
    """

    def spread(params: Tree, batch: Any, axes: Axes) -> tuple[Any, Tree, Tree]:
        value, gradient = function(params, batch)
        _check_axes(varying(jax.tree.leaves(value)[0]), axes)
        return value, wide(gradient), jax.tree.map(jnp.zeros_like, local_squares(gradient))

    return GradientFunction(spread, lambda tree: local_squares(tree, metric), lambda: 1)


def _check_axes(found: Axes, expected: Axes) -> None:
    if found - expected:
        raise ValueError(
            f"The loss differs between the devices of mesh axis {sorted(found - expected)}, and there jax.grad of "
            f"parameters that do not is the sum over the devices, not the mean. Use over_devices(gradients(loss), ..)."
        )
    if expected - found:
        raise ValueError(
            f"The loss is the same on all devices of mesh axis {sorted(expected - found)}: it is averaged over them "
            f"already, and no device knows its own gradient. Return the mean over this device's examples alone."
        )


def _split(batch: Any, parts: int, name: str) -> Tree:
    def one(x: ArrayLike) -> jax.Array:
        x = jnp.asarray(x)
        if x.ndim == 0 or x.shape[0] % parts:
            raise ValueError(
                f"{name}={parts} must divide the first axis of every array of the batch, but one has the shape "
                f"{x.shape}. Drop the incomplete batch, and pass other arrays to the loss in another way."
            )
        return x.reshape(parts, x.shape[0] // parts, *x.shape[1:])

    return jax.tree.map(one, batch)


def _mean(parts: Tree) -> Tree:
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), parts)


@described()
def over_groups(f: GradientFunction, groups: int) -> GradientFunction:
    """Cut the batch into groups and average their gradients, all at once: for `jax.jit` on one device or many.

    If the batch is sharded over a mesh axis whose size divides `groups`, every device makes the gradients of its own
    groups, and only means and sums travel. Parameters may be sharded, too (FSDP, tensor parallel): under `jax.jit`
    norms are those of whole gradients.

    Args:
      f: a function from `gradients` or another `over_` function.
      groups: the number of groups; it divides the first axis of every array of the batch. So many copies of the
        gradient are held, split among the devices.

    Returns:
      A function `f(params, batch)` to the value, the mean gradient and `Replicas`.

    Raises:
      ValueError, TypeError: for a number of groups below 1; in a call, for one that does not divide the batch.

    Examples:
      >>> f = over_groups(gradients(lambda w, x: jnp.mean(w * x)), 2)
      >>> value, mean, replicas = f(1.0, jnp.asarray([1.0, 1.0, 3.0, 3.0]))
      >>> mean.item(), replicas.count, replicas.deviation.item(), replicas.square.item()
      (2.0, 2, 2.0, 4.0)
    """
    check_whole("groups", groups, least=1)

    def spread(params: Tree, batch: Any, axes: Axes) -> tuple[Any, Tree, Tree]:
        parts = _split(batch, groups, "groups")
        values, means, deviations = jax.vmap(lambda part: f.spread(params, part, axes))(parts)
        mean = _mean(means)
        apart = jax.vmap(f.squares)(jax.tree.map(lambda g, m: g - m, means, mean))
        deviation = jax.tree.map(lambda d, s: jnp.sum(d) + f.count() * jnp.sum(s), deviations, apart)
        return _mean(values), mean, deviation

    return GradientFunction(spread, f.squares, lambda: groups * f.count())


@described()
def over_micro_batches(f: GradientFunction, steps: int) -> GradientFunction:
    """Cut the batch into micro-batches and average their gradients, one after the other, in a `jax.lax.scan`.

    It takes the memory of two gradients and one micro-batch.

    Args:
      f: a function from `gradients` or another `over_` function.
      steps: the number of micro-batches; it divides the first axis of every array of the batch.

    Returns:
      A function `f(params, batch)` to the value, the mean gradient and `Replicas`.

    Raises:
      ValueError, TypeError: for a number of steps below 1; in a call, for one that does not divide the batch.

    Examples:
      >>> f = over_micro_batches(gradients(lambda w, x: jnp.mean(w * x)), 2)
      >>> value, mean, replicas = f(1.0, jnp.asarray([1.0, 1.0, 3.0, 3.0]))
      >>> mean.item(), replicas.count, replicas.deviation.item(), replicas.square.item()
      (2.0, 2, 2.0, 4.0)
    """
    check_whole("steps", steps, least=1)

    def spread(params: Tree, batch: Any, axes: Axes) -> tuple[Any, Tree, Tree]:
        def body(carry: tuple[jax.Array, Tree, Tree], part: Tree) -> tuple[tuple[jax.Array, Tree, Tree], Any]:
            done, mean, deviation = carry
            value, other, more = f.spread(params, part, axes)
            # The unit is a set that f makes, which has f.count() gradients.
            mean, deviation = merge(mean, deviation, done, other, more, 1, lambda x: _times(f.count(), f.squares(x)))
            return (done + 1, mean, deviation), value

        mean = wide_zeros_like(params)
        start = (jnp.zeros([], jnp.int32), mean, f.squares(mean))
        (_, mean, deviation), values = jax.lax.scan(body, start, _split(batch, steps, "steps"))
        return _mean(values), mean, deviation

    return GradientFunction(spread, f.squares, lambda: steps * f.count())


def _times(count: int, tree: Tree) -> Tree:
    return jax.tree.map(lambda x: count * x, tree)

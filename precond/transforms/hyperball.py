"""Keep the norm of weights as it was in the beginning, by the last step of a chain."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_rate, described
from precond.blocks import refuse_stacks
from precond.linalg import batch_norm
from precond.transformation import transformation
from precond.trees import wide_dtype

__all__ = ["HyperballState", "hyperball"]


class HyperballState(NamedTuple):
    """Hold the state of `hyperball`.

    Attributes:
      count: updates seen in which something moved.
      radius: the norm of each parameter before the first update.
    """

    count: jax.Array
    radius: Any


@described(explain=True)
def hyperball(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformationExtraArgs:
    r"""Step by a fixed share of the weights' norm, and put the weights back on the sphere that they began on.

    $$W' = W - \eta R \frac{U}{\|U\|}, \qquad W \leftarrow R \frac{W'}{\|W'\|}, \qquad R = \|W_0\|$$

    It stands last in a chain, in place of weight decay and learning rate, behind any direction: only where an update
    points matters, not how large it is. Norms are those of whole parameters. Inside `precond.blocked` put it into
    `precond.per_block`. Norms are then those of blocks, which are single layers where `views=` reads a stack of them.

    Scalars, vectors and parameters that are 0 in the beginning have no sphere: there the step is the usual one,
    $-\eta U$. A scanned model stacks the vectors of its layers, `[layers, d]`, and they count as a matrix here. Give
    this transformation the others alone, by `optax.masked`, and these a learning rate.

    A step in which every update is 0 does not advance the schedule. Such is a step that `precond.scale_by_soap()` and
    its like have skipped.

    Args:
      learning_rate: $\eta$, a number or a schedule. It is about the angle of a step, in radians.

    Returns:
      A transformation whose `update` needs the parameters.

    Raises:
      ValueError, TypeError: for a negative number, or none; in `update`, without parameters, and for stacks.

    Reference:
      Wen et al., Fantastic Pretraining Optimizers and Where to Find Them 2.1: Hyperball Optimization, 2025.

    Examples:
      >>> w, u = jnp.asarray([[3.0, 4.0]]), jnp.asarray([[0.0, 7.0]])
      >>> tx = hyperball(0.1)
      >>> w = optax.apply_updates(w, tx.update(u, tx.init(w), w)[0])
      >>> round(jnp.linalg.norm(w).item(), 4), [round(x, 1) for x in w.ravel().tolist()]
      (5.0, [3.3, 3.8])
    """
    check_rate("learning_rate", learning_rate)

    def init(params: optax.Params) -> HyperballState:
        zeros = jax.tree.map(lambda p: jnp.zeros([], jnp.finfo(wide_dtype(p)).dtype), params)
        return HyperballState(jnp.zeros([], jnp.int32), zeros)

    def update(
        updates: optax.Updates, state: HyperballState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, HyperballState]:
        refuse_stacks("hyperball", extra.get("blocks"))
        if params is None:
            raise ValueError("hyperball() keeps the norm of the parameters: call update(gradients, state, params).")
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate

        def first(p: ArrayLike, known: jax.Array) -> jax.Array:
            return jnp.where(state.count == 0, _norm(p).astype(known.dtype), known)

        def one(u: jax.Array, p: ArrayLike, radius: jax.Array) -> jax.Array:
            wide = wide_dtype(u)
            w, step, eta = jnp.asarray(p, wide), jnp.asarray(u, wide), jnp.asarray(rate, radius.dtype)
            moved = w - eta * radius * _unit(step)
            on_sphere = (step.ndim > 1) & (radius > 0)
            turned = jnp.where((eta > 0) & jnp.any(step != 0), radius * _unit(moved) - w, 0)  # not even by rounding
            return jnp.where(on_sphere, turned, -eta * step).astype(u.dtype)

        radius = jax.tree.map(first, params, state.radius)
        moving = [jnp.any(u != 0) for u in jax.tree.leaves(updates)]
        moves = functools.reduce(jnp.logical_or, moving, jnp.asarray(not moving))
        count = jnp.where(moves, optax.safe_increment(state.count), state.count)
        return jax.tree.map(one, updates, params, radius), HyperballState(count, radius)

    return transformation(init, update)


def _norm(x: ArrayLike) -> jax.Array:
    x = jnp.asarray(x)
    return batch_norm(x.astype(wide_dtype(x))).reshape(())


def _unit(x: jax.Array) -> jax.Array:
    norm = _norm(x)
    return x / jnp.where(norm == 0, 1, norm)  # a norm that is NaN makes the whole parameter NaN

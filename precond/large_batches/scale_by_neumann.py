"""Run the Neumann optimizer (Algorithm 2): Nesterov's momentum with growth, restarts and a regularizer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_idle, check_number, check_rate, check_whole, described
from precond.blocks import KnownParameters, check_shapes, known_parameters, refuse_divided
from precond.large_batches.convexify import Regularizer, convexify
from precond.large_batches.eval_params import Displacement
from precond.transformation import transformation
from precond.trees import Leaf, Tree, real_dtype, wide, wide_dtype, wide_zeros_like

__all__ = ["NeumannState", "growing_momentum", "scale_by_neumann"]


class NeumannState(NamedTuple):
    """Hold the state of `scale_by_neumann`.

    Attributes:
      count: the number of updates seen.
      displacement: the momentum m and μ; the parameters are ahead of the iterate by μ m.
      average: the moving average of the parameters, float32 or wider; None without a regularizer.
      resets: the number of resets so far.
      age: the number of updates since the last reset.
      known: the parameters whose momentum and average they are, by hashes of their paths.
    """

    count: jax.Array
    displacement: Displacement
    average: Tree | None
    resets: jax.Array
    age: jax.Array
    known: KnownParameters


@described()
def growing_momentum(low: float = 0.5, high: float = 0.9, *, epoch: ArrayLike = 1) -> optax.Schedule:
    r"""Make a schedule of a momentum that grows towards 1, held between `low` and `high`.

    $$\mu(t) = 1 - 1 / (1 + t)$$

    The paper gives "starts 0.5, peaks 0.9" and this formula, but no unit of t. If t counts updates, it passes from the
    one to the other in 9 updates; if it counts epochs, in 9 epochs.

    Args:
      low: the first value.
      high: the last value.
      epoch: the number of updates in which t grows by 1.

    Returns:
      A schedule, for `momentum=` of `precond.scale_by_neumann`; it counts from 0, where t is `1 / epoch`.

    Raises:
      ValueError, TypeError: for a number out of range.

    Reference:
      Krishnan, Xiao and Saurous, Neumann Optimizer, 2018, Table 1.

    Examples:
      >>> [round(float(growing_momentum()(count)), 3) for count in (0, 1, 3, 8, 100)]
      [0.5, 0.667, 0.8, 0.9, 0.9]
    """
    check_number("low", low, 0, 1)
    check_number("high", high, 0, 1)
    check_number("epoch", epoch, 1)

    def schedule(count: ArrayLike) -> jax.Array:
        t = (count + 1) / jnp.asarray(epoch, jnp.result_type(float))
        return jnp.clip(t / (1 + t), low, high)

    return schedule


def _at(value: optax.ScalarOrSchedule, count: jax.Array) -> jax.Array:
    return jnp.asarray(value(count) if callable(value) else value, jnp.result_type(float))


def _like(number: jax.Array, x: jax.Array) -> jax.Array:
    """Cast a number to the precision of an array, which may be complex."""
    return number.astype(real_dtype(x))


def _copy(x: Leaf) -> jax.Array:
    """Copy a parameter to a buffer of its own, so that both may be donated; a shape gives zeros."""
    dtype = wide_dtype(x)
    return jnp.zeros_like(x, dtype=dtype) if isinstance(x, jax.ShapeDtypeStruct) else jnp.array(x, dtype, copy=True)


_NO_PARAMS = (
    "scale_by_neumann() needs the parameters for the average of its regularizer: call "
    "update(gradients, state, params), or pass regularizer=None."
)


def _check(warmup: Any, resets: Any, momentum: Any, decays: dict[str, Any]) -> None:
    if not isinstance(warmup, jax.Array) or warmup.ndim:
        check_whole("warmup", warmup, least=0)
    if not (resets is None or callable(resets)) and (not isinstance(resets, jax.Array) or resets.ndim):
        check_whole("resets", resets, least=1)
    if not callable(momentum):
        check_number("momentum", momentum, 0, 1)
    for name, value in decays.items():
        check_number(name, value, 0, 1)


@described(explain=True)
def scale_by_neumann(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: optax.ScalarOrSchedule = growing_momentum(),
    regularizer: Regularizer | None = convexify(),
    decay: ArrayLike = 0.99,
    warmup: int | jax.Array = 5,
    resets: int | jax.Array | Callable[[jax.Array], ArrayLike] | None = 10,
    restart_momentum: bool = False,
    regularized_resets: bool = False,
    warmup_decay: ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Step as Algorithm 2 of the Neumann optimizer does, with gradients at the displaced parameters.

    The displaced parameters are $w$.

    $$d = g + \nabla R(w, v), \quad m \leftarrow \mu m - \eta d, \quad w \leftarrow w + \mu m - \eta d, \quad
      v \leftarrow w + \gamma (v - w)$$

    If the momentum is reset, $m = -\eta g$ and $d = g$. Put it last in a chain: its updates are steps.

    **What to expect.** The paper derives the method from the Neumann series of the inverse Hessian, with one gradient
    for each term and a fresh batch for each. The result of the derivation is Nesterov's momentum. With constant μ and
    without the regularizer it is `optax.sgd(learning_rate, momentum, nesterov=True)` to the last digits, and a reset
    sets its trace to zero. So expect the gain of Nesterov's momentum, fewer steps than SGD with large batches, and not
    that of a second-order method: no coordinates are preconditioned. The method adds the growth of μ, the resets and
    the regularizer. The series itself is `precond.contrib.scale_by_neumann_series`.

    Args:
      learning_rate: η; a number or a schedule, which counts all updates from 0.
      momentum: μ; a number or a schedule, which counts from 0 after the warm-up.
      regularizer: a function from parameters and their average to a gradient, `precond.large_batches.convexify`. None
        keeps no average and needs no parameters.
      decay: γ, the decay of the average of the parameters.
      warmup: the number of updates of plain SGD before the algorithm begins. Table 1 has 5 epochs of them.
      resets: when the momentum is reset. The first reset is the first update after the warm-up. With an integer K the
        next ones come K updates later, then 2K later, 4K, .., as the paper's text says. ("mod K" of its
        pseudo-code has no meaning if K grows.) A function from the number of resets less one returns the number of
        updates until the next. The paper finds linear growth as good (`lambda i: 10 * (i + 1)`). None has the first
        reset alone, which changes only the regularizer. Table 1 has 10 epochs.
      restart_momentum: whether the schedule of `momentum` counts from the last reset. The paper does not say.
      regularized_resets: whether d has the regularizer's gradient in the update of a reset, too. The paper leaves d
        undefined there.
      warmup_decay: the decay of the average during the warm-up. With 0 the average starts at the end of the warm-up,
        with 1 it stays at the initial parameters, and with γ it runs all along. The paper does not say. Unless it is 0,
        w and v may be far apart at first.

    Returns:
      A transformation. For evaluation, apply `precond.large_batches.eval_params` to the parameters, which returns
      $w - \mu m$. Norms are taken over all parameters that it sees, which are all unless it is masked.

    Raises:
      ValueError, TypeError: for numbers out of range; for a decay, or `regularized_resets`, beside
        `regularizer=None`, where they have no effect; in `update` for missing parameters.

    Reference:
      Krishnan, Xiao and Saurous, Neumann Optimizer: A Practical Optimization Algorithm for Deep Neural Networks, 2018,
      Algorithm 2 and Table 1.

    Examples:
      >>> tx, params = scale_by_neumann(0.1, warmup=0), {"w": jnp.ones(2)}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["w"].round(6).tolist()  # -η (1 + μ) g
      [-0.15000000596046448, -0.15000000596046448]
    """
    check_rate("learning_rate", learning_rate)
    _check(warmup, resets, momentum, {"decay": decay, "warmup_decay": warmup_decay})
    if regularizer is None:
        idle = {"warmup_decay": (warmup_decay, 0.0), "regularized_resets": (regularized_resets, False)}
        check_idle("regularizer=None", decay=(decay, 0.99), **idle)

    def is_reset(state: NeumannState) -> jax.Array:
        done = jnp.maximum(state.resets - 1, 0)
        first = state.resets == 0
        if resets is None:
            return first
        period = resets(done) if callable(resets) else jnp.asarray(resets).astype(jnp.int32) << done
        return first | (state.age >= period)

    def init(params: optax.Params) -> NeumannState:
        known = known_parameters(params)
        still = wide_zeros_like(params)
        average = None if regularizer is None else jax.tree.map(_copy, params)
        scale = jnp.zeros([], jnp.result_type(float))
        count, done, age = (jnp.zeros([], jnp.int32) for _ in range(3))
        return NeumannState(count, Displacement(scale, still), average, done, age, known)

    def update(
        updates: optax.Updates, state: NeumannState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, NeumannState]:
        refuse_divided("scale_by_neumann", extra.get("blocks"))
        check_shapes(updates, params)
        updates = jax.tree.map(jnp.asarray, updates)
        g, rate = wide(updates), _at(learning_rate, state.count)
        count = state.count - jnp.asarray(warmup).astype(jnp.int32)
        begun = count >= 0
        reset = begun & is_reset(state)
        clock = jnp.where(reset, 0, state.age) if restart_momentum else jnp.maximum(count, 0)
        mu = jnp.where(begun, _at(momentum, clock), 0)
        d = g
        if regularizer is not None and params is None:
            raise ValueError(_NO_PARAMS)
        if regularizer is not None and params is not None and state.average is not None:
            on = begun & (regularized_resets | ~reset)
            force = regularizer(wide(params), state.average)
            d = jax.tree.map(lambda x, f: x + jnp.where(on, f, 0).astype(x.dtype), g, force)

        def move(m: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
            eta = _like(rate, m)
            return jnp.where(begun, jnp.where(reset, -eta * x, _like(mu, m) * m - eta * y), 0)

        m = jax.tree.map(move, state.displacement.direction, g, d)
        foreign, known = state.known.seeing(updates)
        rate = jnp.where(foreign, jnp.inf, rate)  # nobody goes on with the momentum of others
        step = jax.tree.map(lambda x, y: _like(mu, x) * x - _like(rate, x) * y, m, d)
        out = optax.tree.cast_like(step, updates)
        average = state.average
        if params is not None and average is not None:
            keep = jnp.where(begun, decay, warmup_decay)
            moved = wide(optax.apply_updates(params, out))
            average = jax.tree.map(lambda v, w: w + _like(keep, w) * (v - w), average, moved)
        age = jnp.where(reset, 1, state.age + begun)
        next_count = jnp.asarray(optax.safe_increment(state.count))
        return out, NeumannState(next_count, Displacement(mu, m), average, state.resets + reset, age, known)

    return transformation(init, update)

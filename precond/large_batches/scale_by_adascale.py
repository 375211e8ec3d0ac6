"""Scale the learning rate with the batch as far as the noise of the gradient lets it: AdaScale."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import (
    MissingArgumentError,
    check_number,
    check_part,
    check_rate,
    check_values,
    described,
    shown,
)
from precond.blocks import check_leaves, refuse_divided, with_zero_probes, without_probes
from precond.large_batches.gain import GainEstimator, gain, paper_gain
from precond.large_batches.rules import Rule
from precond.replicas import Replicas
from precond.transformation import transformation
from precond.trees import Tree, common_dtype, find_nodes

__all__ = ["AdascaleState", "done", "scale_by_adascale"]

Groups = Callable[[Tree], Tree]
"""A function from a tree of parameters to a tree of labels; the parameters of one label have a gain of their own."""


class AdascaleState(NamedTuple):
    r"""Hold the state of `scale_by_adascale`.

    Attributes:
      count: the number of steps.
      step: the number of scale-invariant steps done, $\lfloor \tau \rfloor$, at which the schedule is read.
      fraction: $\tau - \lfloor \tau \rfloor$, kept apart so that nothing is lost in float32 after millions of steps.
      samples: the number of samples in the averages.
      weight: what the averaging rule keeps.
      variance: $\bar\sigma^2$ of the base batch, one for each group.
      square: $\bar\mu^2$, one for each group.
      gain: r of the last step, of all groups together.
      scale: S of the last step.
    """

    count: jax.Array
    step: jax.Array
    fraction: jax.Array
    samples: jax.Array
    weight: jax.Array
    variance: jax.Array
    square: jax.Array
    gain: jax.Array
    scale: jax.Array


@described(explain=True)
def scale_by_adascale(
    schedule: optax.ScalarOrSchedule,
    scale: ArrayLike,
    *,
    estimator: GainEstimator | None = None,
    power: float = 1.0,
    rule: Rule | None = None,
    groups: Groups | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Multiply the learning rate of the base batch by AdaScale's gain in [1, S], and advance its schedule by the gain.

    $$r_t = \frac{\sigma_t^2 + \mu_t^2}{\sigma_t^2 / S + \mu_t^2}, \quad u \leftarrow r_t \,
      \mathrm{lr}(\lfloor \tau_t \rfloor) \, u, \quad \tau_{t+1} = \tau_t + r_t$$

    $\sigma^2$ is the variance of the gradient of the base batch and $\mu^2$ the squared norm of its expectation. From n
    gradients $g_i$ with the mean $\bar g$, which together have S base batches,

    $$\hat\sigma^2 = \frac{S}{n} \frac{\sum_i \|g_i - \bar g\|^2}{n - 1}, \quad
      \hat\mu^2 = \|\bar g\|^2 - \frac{\hat\sigma^2}{S}$$

    are unbiased. `update` takes the statistics as the extra argument `replicas`, from one of the functions in
    `precond.replicas` or from `precond.accumulate`. They are those of raw gradients, also if something is chained
    before. So the gain belongs after momentum and weight decay, at the place of the learning rate, and clipping may
    stand before anything. (A penalty in the loss is part of every gradient. The gradients of K-FAC's probes among the
    parameters are factors, and are left out.) Updates keep their sign: behind an optimizer that was made with the
    learning rate 1 they descend; behind a bare direction add `optax.scale(-1)`.

    Train until `precond.large_batches.done(state, total)` with the total and the schedule of the base batch, without
    warm-up. If the statistics of a step are not finite, nothing changes here, and the step has the gain of the step
    before.

    Args:
      schedule: lr; a number, or an Optax schedule that counts scale-invariant steps.
      scale: S, at least 1: the number of base batches in one step's batch. It may change from step to step as the extra
        argument `scale` of `update`. The averages are those of the base batch and stay as they are.
      estimator: how the moments are averaged: `precond.large_batches.paper_gain` (None),
        `precond.large_batches.fairscale_gain`, `precond.large_batches.adaptdl_gain`, or your own.
      power: the update is scaled by $r^p$: 1 for SGD, 1/2 for Adam and its kin (with `precond.replicas.adam_metric`).
        The schedule always advances by r.
      rule: another factor in place of $r^p$: `precond.large_batches.linear_rule`, `square_root_rule` or
        `legw_rule(warmup)`, or a function from r, S and the scale-invariant steps done.
      groups: a function from parameters to a tree of labels (strings or numbers). Each label then has a gain of its
        own, as FairScale's parameter groups have. The schedule advances by the gain of all together.

    Returns:
      A transformation. With S = 1 the gain is 1, and `replicas` need not be given.

    Raises:
      ValueError, TypeError: for a number out of range; in `update`, if S is not 1 and there are no `replicas`, or
        replicas of one gradient alone.

    Reference:
      Johnson, Agrawal, Gu and Guestrin, AdaScale SGD: A User-Friendly Algorithm for Distributed Training, 2020,
      algorithm 1 and appendix B.3. The power is AdaptDL's.

    Examples:
      >>> from precond import replicas
      >>> tx = optax.chain(optax.sgd(1.0), scale_by_adascale(0.1, scale=2))
      >>> # The gradients of two base batches differ by noise alone.
      >>> params, gradients = (
      ...     jnp.zeros(2),
      ...     jnp.asarray([[1.0, 0.0], [0.0, 1.0]]),
      ... )
      >>> mean, statistics = replicas.stacked(gradients)
      >>> state = tx.init(params)
      >>> for _ in range(2):
      ...     updates, state = tx.update(mean, state, params, replicas=statistics)
      >>> updates.tolist(), state[1].gain.item(), state[1].step.item()
      ([-0.10000000149011612, -0.10000000149011612], 2.0, 3)
    """
    check_number("scale", scale, 1, advice="It counts base batches.")
    check_number("power", power, 0, 1)
    check_rate("schedule", schedule)
    if estimator is not None:
        check_part("estimator", estimator, GainEstimator, "precond.large_batches.paper_gain()")
    average = paper_gain() if estimator is None else estimator
    if rule is not None and power != 1:
        raise ValueError(
            f"power={power} and rule={shown(rule)}: a rule stands in place of the gain's power; choose one."
        )
    factor = rule or (lambda gain, scale, step: gain**power)
    lr = schedule if callable(schedule) else optax.constant_schedule(schedule)

    def init(params: optax.Params) -> AdascaleState:
        params = without_probes(params)
        check_leaves(params)
        dtype = common_dtype(params)
        count, step, samples = (
            jnp.zeros([], jnp.int32) for _ in range(3)
        )  # each has a buffer of its own, as donation needs
        fraction, weight = (jnp.zeros([], dtype) for _ in range(2))
        variance = jnp.zeros([len(_names(params, groups))], dtype)
        square, first, size = jnp.ones_like(variance), jnp.ones([], dtype), jnp.array(scale, dtype)
        return AdascaleState(count, step, fraction, samples, weight, variance, square, first, size)

    def update(
        updates: optax.Updates,
        state: AdascaleState,
        params: optax.Params | None = None,
        *,
        replicas: Replicas | None = None,
        scale: ArrayLike = scale,
        **extra: Any,
    ) -> tuple[optax.Updates, AdascaleState]:
        refuse_divided("scale_by_adascale", extra.get("blocks"))
        _check(replicas, scale)
        whole, updates = updates, without_probes(updates)  # the gradients of probes are factors, which have no gain
        if replicas is not None:
            replicas = replicas._replace(
                deviation=without_probes(replicas.deviation), square=without_probes(replicas.square)
            )
        labels = None if groups is None else jax.tree.leaves(groups(updates))
        size = jnp.asarray(scale, state.gain.dtype)
        finite, averaged = _observe(average, state, replicas, size, labels)
        gains, total = _gains(average, averaged, size)
        last, _ = _gains(average, state._replace(count=state.count - 1), state.scale)
        found = factor(jnp.where(finite, gains, last), size, state.step + state.fraction)
        factors = jnp.broadcast_to(lr(state.step) * found, gains.shape)
        moved = [
            (jnp.asarray(u) * factors[i]).astype(jnp.result_type(u))
            for u, i in zip(jax.tree.leaves(updates), _places(labels, updates), strict=True)
        ]
        ahead = state.fraction + total
        full = jnp.floor(ahead)
        count = jnp.asarray(optax.safe_increment(state.count))
        step = state.step + full.astype(jnp.int32)
        averaged = averaged._replace(count=count, step=step, fraction=ahead - full, gain=total, scale=size)
        return with_zero_probes(whole, moved), optax.tree.where(finite, averaged, state)

    return transformation(init, update)


def done(state: optax.OptState, total: ArrayLike) -> jax.Array:
    r"""Tell whether training is done, at any scale.

    It is done after T scale-invariant steps, $\tau \geq T$.

    Args:
      state: the state of an optimizer with `scale_by_adascale` in it; if there are several, all must be done.
      total: T, the number of steps that the base batch would take.

    Raises:
      ValueError: for a state without AdaScale.

    Examples:
      >>> tx = scale_by_adascale(0.1, scale=1)
      >>> state = tx.init(jnp.zeros(2))
      >>> _, after = tx.update(jnp.ones(2), state)
      >>> done(state, 1).item(), done(after, 1).item()
      (False, True)
    """
    if isinstance(total, str):
        raise TypeError(f"total={total!r}: must be a number of steps.")
    check_values(state=state)
    found = find_nodes(state, AdascaleState)
    if not found:
        raise ValueError("done() found no AdascaleState: pass the state of an optimizer with scale_by_adascale in it.")
    return jnp.all(jnp.stack([s.step + s.fraction >= total for s in found]))


def _names(tree: Tree, groups: Groups | None) -> list[Any]:
    return [None] if groups is None else sorted(set(jax.tree.leaves(groups(tree))), key=str)


def _places(labels: list[Any] | None, updates: Tree) -> list[int]:
    """Return the place of each leaf's group."""
    leaves = jax.tree.leaves(updates)
    if labels is None:
        return [0] * len(leaves)
    if len(labels) != len(leaves):
        raise ValueError(f"groups= gave {len(labels)} labels for {len(leaves)} parameters: it must give each its own.")
    names = sorted(set(labels), key=str)
    return [names.index(label) for label in labels]


def _by_group(tree: Tree, labels: list[Any] | None, dtype: jnp.dtype) -> jax.Array:
    """Sum the scalars of each group."""
    leaves = [jnp.asarray(x, dtype) for x in jax.tree.leaves(tree)]
    places = [0] * len(leaves) if labels is None else _places(labels, tree)
    sums = [jnp.zeros([], dtype) for _ in range(1 if labels is None else len(set(labels)))]
    for place, leaf in zip(places, leaves, strict=True):
        sums[place] = sums[place] + leaf
    return jnp.stack(sums)


def _check(replicas: Replicas | None, scale: ArrayLike) -> None:
    check_number("scale", scale, 1, advice="It counts base batches.")
    alone = isinstance(scale, (int, float)) and scale == 1
    if replicas is None and not alone:
        raise MissingArgumentError(
            f"AdaScale with scale={scale} needs the extra argument replicas: make the gradient by a function in "
            f"precond.replicas and pass tx.update(mean, state, params, replicas=replicas), or wrap the optimizer in "
            f"precond.accumulate or precond.large_batches.differenced."
        )
    if replicas is not None:
        check_part("replicas", replicas, Replicas, "those that a function of precond.replicas returns third")
    if replicas is not None and isinstance(replicas.count, int) and replicas.count < 2 and not alone:
        raise ValueError(
            f"AdaScale with scale={scale} got replicas of one gradient, which says nothing of its noise: split the "
            f"batch by precond.replicas.over_groups or over_micro_batches, or use precond.large_batches.differenced."
        )


def _observe(
    rule: GainEstimator, state: AdascaleState, replicas: Replicas | None, scale: jax.Array, labels: list[Any] | None
) -> tuple[jax.Array, AdascaleState]:
    """Return whether the statistics are finite, and the state with this step's sample in its averages."""
    if replicas is None:
        return jnp.asarray(True), state
    dtype = scale.dtype
    count, parts = jnp.asarray(replicas.count, dtype), jnp.asarray(replicas.parts, dtype)
    spread = _by_group(replicas.deviation, labels, dtype) / jnp.maximum(count - 1, 1)
    variance, square = spread * scale / parts, _by_group(replicas.square, labels, dtype) - spread / count
    finite = jnp.all(jnp.isfinite(variance) & jnp.isfinite(square))
    variance, square = rule.before(variance, square)
    samples = state.samples + 1
    rate, weight = rule.average(samples.astype(dtype), state.weight, scale * count / parts, count)
    averaged = state._replace(
        samples=samples,
        weight=jnp.asarray(weight, dtype),
        variance=(state.variance + rate * (variance - state.variance)).astype(dtype),
        square=(state.square + rate * (square - state.square)).astype(dtype),
    )
    # A single gradient makes a step, but not a sample.
    return finite, optax.tree.where(finite & (count > 1), averaged, state)


def _gains(rule: GainEstimator, state: AdascaleState, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the gain of each group, and the gain of all together."""
    variance, square = rule.after(state.variance, state.square)
    early = (state.count < rule.start) | (state.samples == 0)
    each, total = gain(variance, square, scale), gain(jnp.sum(variance), jnp.sum(square), scale)
    return jnp.where(early, 1, each), jnp.where(early, 1, total)

"""Compute AdaScale's gain, and choose the rule by which its two moments are estimated."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from precond.arguments import check_number, check_whole, described, made

__all__ = ["GainEstimator", "adaptdl_gain", "fairscale_gain", "gain", "paper_gain"]

Bounds = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


class GainEstimator(NamedTuple):
    r"""Average the variance and the squared norm of the gradient over steps, by pure functions.

    They are $\sigma^2$ and $\mu^2$ in the paper.

    Attributes:
      average: a function of the number of this sample (from 1), the weight kept so far (0 at first), the scale S of the
        sample's gradient and the number n of its parts. It returns the rate a of
        $\bar x \leftarrow \bar x + a (x - \bar x)$, and the weight to keep.
      before: a function that changes a sample $(\sigma^2, \mu^2)$ before it is averaged.
      after: a function that changes the averages before they are used.
      start: the number of first steps in which the gain is 1.
    """

    average: Callable[[jax.Array, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    before: Bounds
    after: Bounds
    start: int

    def __repr__(self) -> str:
        """Name the function that made it."""
        return made(self)


def gain(variance: jax.Array, square: jax.Array, scale: ArrayLike) -> jax.Array:
    r"""Return $r = (\sigma^2 + \mu^2) / (\sigma^2 / S + \mu^2)$ in [1, S]: S for pure noise, 1 without noise.

    Args:
      variance: $\sigma^2$, the variance of the gradient of the base batch, at least 0.
      square: $\mu^2$, the squared norm of the expected gradient, at least 0.
      scale: S, the size of the batch in base batches. With neither noise nor gradient the gain is 1.

    Reference:
      Johnson et al., AdaScale SGD, 2020, equation 2.

    Examples:
      >>> [
      ...     gain(jnp.float32(v), jnp.float32(s), 4).item()
      ...     for v, s in ((1, 0), (0, 1), (4, 1), (0, 0))
      ... ]
      [4.0, 1.0, 2.5, 1.0]
    """
    below = variance / scale + square
    ratio = jnp.where(below > 0, (variance + square) / jnp.where(below > 0, below, 1), 1)
    return jnp.clip(ratio, 1, scale)


def _bounds(least_variance: float) -> Bounds:
    check_number("least_variance", least_variance, 0)
    return lambda variance, square: (jnp.maximum(variance, least_variance), jnp.maximum(square, 0))


def _as_is(variance: jax.Array, square: jax.Array) -> tuple[jax.Array, jax.Array]:
    return variance, square


def _decay(smoothing: float | None, size: ArrayLike) -> jax.Array:
    return jnp.asarray(jnp.maximum(1 - size / 1000, 0) if smoothing is None else smoothing)


def _debiased(decay: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the rate of an exponential average that is divided by its weight so far, also if the decay changes."""
    weight = decay * weight + (1 - decay)
    return (1 - decay) / weight, weight


@described()
def paper_gain(smoothing: float | None = None, *, least_variance: float = 1e-6, start: int = 1) -> GainEstimator:
    r"""Average as the paper does: a plain mean of the first samples, then an exponential average.

    The plain mean is that of the first $1 / (1 - \theta)$ samples.

    Samples are clipped before they are averaged, $\hat\sigma^2 \geq 10^{-6}$ and $\hat\mu^2 \geq 0$, and $r_0 = 1$. The
    bound of the variance is an absolute number: if gradients are so small that $\sigma^2$ is of its size, pass a
    smaller one.

    Args:
      smoothing: $\theta$, from 0 (no averaging) to below 1; None takes $\max(1 - S/1000, 0)$.
      least_variance: the bound of $\hat\sigma^2$.
      start: the number of first steps in which the gain is 1; 0 uses the first step's own sample, too.

    Returns:
      A value for `estimator=` of `precond.scale_by_adascale` and `precond.adascale`.

    Raises:
      ValueError, TypeError: for a number out of range.

    Reference:
      Johnson et al., AdaScale SGD, 2020, appendix B.3.

    Examples:
      >>> rule = paper_gain(0.75)
      >>> [
      ...     round(rule.average(jnp.float32(t), jnp.zeros(()), 4, 4)[0].item(), 3)
      ...     for t in (1, 2, 4, 8)
      ... ]
      [1.0, 0.5, 0.25, 0.25]
    """
    _check_smoothing(smoothing)
    check_whole("start", start, least=0)

    def average(samples: jax.Array, weight: jax.Array, scale: jax.Array, count: jax.Array) -> tuple:
        del count
        return jnp.maximum(1 / samples, 1 - _decay(smoothing, scale)), weight

    return GainEstimator(average, _bounds(least_variance), _as_is, start)


@described()
def fairscale_gain(smoothing: float | None = None, *, least_variance: float = 1e-6) -> GainEstimator:
    r"""Average as FairScale does: a bias-corrected exponential average from the first sample on.

    The first sample also sets $r_0$.

    FairScale's `debias_ewma=False` is `paper_gain(smoothing, start=0)`. When the scale changes, FairScale multiplies
    its average of the variance by the old scale over the new one. But the average is that of the base batch's variance,
    which does not depend on the scale, so here it is left alone.

    Args:
      smoothing: $\theta$; None takes $\max(1 - n/1000, 0)$ for n gradients (not for the scale).
      least_variance: the bound of $\hat\sigma^2$, before averaging.

    Returns:
      A value for `estimator=`.

    Raises:
      ValueError, TypeError: for a number out of range.

    Reference:
      facebookresearch/fairscale, `fairscale/optim/adascale.py`.

    Examples:
      >>> rule = fairscale_gain(0.5)
      >>> rate, weight = rule.average(jnp.float32(1), jnp.zeros(()), 4, 4)
      >>> rate.item(), round(rule.average(jnp.float32(2), weight, 4, 4)[0].item(), 3)
      (1.0, 0.667)
    """
    _check_smoothing(smoothing)

    def average(samples: jax.Array, weight: jax.Array, scale: jax.Array, count: jax.Array) -> tuple:
        del samples, scale
        return _debiased(_decay(smoothing, count), weight)

    return GainEstimator(average, _bounds(least_variance), _as_is, 0)


@described()
def adaptdl_gain(smoothing: float = 0.999, *, least_variance: float = 1e-6) -> GainEstimator:
    r"""Average as AdaptDL (Pollux) does: a bias-corrected average of samples that may be negative.

    Its decay is $\theta^S$.

    The averages are bounded, not the samples. So the estimates stay unbiased; those of `paper_gain` do not if noise
    prevails.

    Args:
      smoothing: $\theta$ for one base batch; S base batches leave $\theta^S$ of an average.
      least_variance: the bound of $\bar\sigma^2$, after averaging.

    Returns:
      A value for `estimator=`.

    Raises:
      ValueError, TypeError: for a number out of range.

    Reference:
      Qiao et al., Pollux, 2021; petuum/adaptdl, `adaptdl/torch/gradient_noise_scale.py`.

    Examples:
      >>> rule = adaptdl_gain(0.5)
      >>> [x.item() for x in rule.average(jnp.float32(1), jnp.zeros(()), 2, 2)]
      [1.0, 0.75]
    """
    _check_smoothing(smoothing)

    def average(samples: jax.Array, weight: jax.Array, scale: jax.Array, count: jax.Array) -> tuple:
        del samples, count
        return _debiased(jnp.asarray(smoothing) ** scale, weight)

    return GainEstimator(average, _as_is, _bounds(least_variance), 0)


def _check_smoothing(smoothing: float | None) -> None:
    if smoothing is None:
        return
    check_number("smoothing", smoothing, 0, 1, advice="0 does not average at all.")
    if smoothing == 1:
        raise ValueError("smoothing=1: must be below 1, or nothing after the first step counts.")

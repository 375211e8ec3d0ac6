"""Estimate KL-Shampoo's factors, for each of which the gradient is whitened by all the others."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import MissingArgumentError, check_number, described
from precond.blocks import leaves_of
from precond.linalg import Packed, batch_norm, dense, multiply_axis
from precond.statistics.accumulate_grams import Axes, StatisticsState, accumulate_grams
from precond.statistics.statistic import Whiten
from precond.transformation import transformation
from precond.trees import Stacks, wide_dtype

__all__ = ["KlState", "kl"]


class KlState(NamedTuple):
    """Hold the state of `kl`.

    Attributes:
      unit: the root mean square of each block's first gradient that is not zero, `[N]` by stack; 0 before this
        gradient.
      accumulated: the state of the factors.
    """

    unit: Stacks
    accumulated: StatisticsState


@described()
def kl(
    decay: ArrayLike = 0.99,
    *,
    weight: ArrayLike | None = None,
    bias_correction: bool = True,
    initial: float = 0.0,
    axes: Axes = None,
    every: int = 1,
    mean: bool = True,
    unit: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Estimate the factors whose Kronecker product is closest to the gradient's covariance.

    They minimise the Kullback-Leibler divergence from the covariance to $L \otimes R$.

    For a matrix $G$ `[m, n]`, with the other axis whitened by the current root ($R^{-1/2}$ in the paper):

    $$L \leftarrow \beta L + \frac{w}{n} (G R^{-1/2}) (G R^{-1/2})^\top, \qquad
      R \leftarrow \beta R + \frac{w}{m} (L^{-1/2} G)^\top (L^{-1/2} G)$$

    The whitening matrix is the root itself, for every power. With `inverse_root(power=0.5)` this is the paper's rule,
    with any other power it is Meta's. Before the root gives a matrix for an axis, $I / \sqrt u$ whitens it, where u is
    the root mean square of the block's first gradient that is not zero. So $L \otimes R$ is quadratic in the gradient
    from the first step on.

    Args:
      decay: as in `precond.outer_products`.
      weight: as in `precond.outer_products`.
      bias_correction: as in `precond.outer_products`.
      initial: as in `precond.outer_products`.
      axes: as in `precond.outer_products`.
      every: as in `precond.outer_products`.
      mean: whether to divide by the size of the other axes, as the paper does and Meta's implementation does not.
      unit: u; None measures it. Meta's implementation has 1.

    Returns:
      A transformation of the form of `precond.outer_products`, whose `update` needs the extra argument `whiten`
      that `precond.scale_by_kronecker` gives: from a stack's name, an axis and its factor to the matrices
      `[N, d, d]` that whiten that axis.

    Raises:
      ValueError, TypeError: for a number out of range.

    Reference:
      Lin et al., Understanding and Improving Shampoo and SOAP via Kullback-Leibler Minimization, 2025.

    Examples:
      >>> from precond.linalg import dense
      >>> statistics = kl(decay=1.0)
      >>> stacks = {"2x1": jnp.asarray([[[1.0], [2.0]]])}
      >>> halve = lambda name, axis, factor: jnp.full_like(factor, 0.5)
      >>> factors, state = statistics.update(stacks, statistics.init(stacks), whiten=halve)
      >>> dense(factors["2x1"][0]).tolist()
      [[[0.25, 0.5], [0.5, 1.0]]]
    """
    if unit is not None:
        check_number("unit", unit, 0)

    def whitened(
        name: str,
        stack: jax.Array,
        axis: int,
        factors: tuple[Packed | None, ...],
        whiten: Whiten | None,
    ) -> jax.Array:
        assert whiten is not None
        for other, factor in enumerate(factors):
            if factor is not None and other != axis:
                stack = multiply_axis(stack, whiten(name, other, dense(factor)), other)
        return stack

    start, accumulate = accumulate_grams(
        whitened,
        decay=decay,
        weight=weight,
        bias_correction=bias_correction,
        initial=initial,
        axes=axes,
        every=every,
        mean=mean,
    )

    def init(params: optax.Params) -> KlState:
        unknown = jax.tree.map(lambda stack: jnp.zeros(stack.shape[:1], wide_dtype(stack)), params)
        return KlState(unknown, start(params))

    def update(
        updates: optax.Updates,
        state: KlState,
        params: optax.Params | None = None,
        *,
        whiten: Whiten | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, KlState]:
        if whiten is None:
            raise MissingArgumentError(
                "precond.kl() needs the extra argument whiten=, which precond.scale_by_kronecker gives: put it there, "
                "scale_by_kronecker(precond.kl(), precond.inverse_root())."
            )

        def measured(old: jax.Array, stack: jax.Array) -> jax.Array:
            norm = batch_norm(stack.astype(old.dtype), 1).reshape(-1)
            return jnp.where(old > 0, old, norm / math.sqrt(math.prod(stack.shape[1:])))

        def given(old: jax.Array, stack: jax.Array) -> jax.Array:
            del stack
            return old if unit is None else jnp.full_like(old, unit)

        units = jax.tree.map(measured if unit is None else given, state.unit, updates)
        by_name = leaves_of(units)

        def scaled(name: str, axis: int, factor: jax.Array) -> jax.Array:
            found, size = whiten(name, axis, factor), by_name[name]
            least = jnp.where(size > 0, size, 1)[:, None, None] ** -0.5 * jnp.eye(found.shape[-1], dtype=found.dtype)
            # A factor that has seen no gradient has a zero root. Any other root has a positive entry on its diagonal.
            unknown = jnp.max(found, axis=(1, 2)) == 0
            return jnp.where(unknown[:, None, None], least, found)

        factors, accumulated = accumulate(updates, state.accumulated, params, whiten=scaled, **extra)
        return factors, KlState(units, accumulated)

    return transformation(init, update)

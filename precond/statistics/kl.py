"""KL-Shampoo's statistics: each factor sees the gradient whitened by all the others."""

import math

import jax
import optax
from jax.typing import ArrayLike

from precond.linalg import Packed, dense, multiply_axis, packed_gram
from precond.statistics.accumulate import Axes, Whiten, accumulate_grams

__all__ = ["kl"]


def kl(
    decay: ArrayLike = 0.99,
    *,
    weight: ArrayLike | None = None,
    bias_correction: bool = True,
    initial: float = 0.0,
    axes: Axes = None,
    every: int = 1,
    mean: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""Factors that minimise the Kullback-Leibler divergence from the gradient's covariance to $L \otimes R$.

    For a matrix $G$ `[m, n]`, with the other axis whitened by the current root ($R^{-1/2}$ in the paper):

    $$L \leftarrow \beta L + \frac{w}{n} (G R^{-1/2}) (G R^{-1/2})^\top, \qquad
      R \leftarrow \beta R + \frac{w}{m} (L^{-1/2} G)^\top (L^{-1/2} G)$$

    The whitening matrix is the root itself, whatever its power: with `inverse_root(power=0.5)` this is the paper's,
    with any other power it is Meta's.

    Args:
      decay: as in `precond.outer_products`.
      weight: as in `precond.outer_products`.
      bias_correction: as in `precond.outer_products`.
      initial: as in `precond.outer_products`.
      axes: as in `precond.outer_products`.
      every: as in `precond.outer_products`.
      mean: divide by the size of the other axes, as the paper does and Meta's implementation does not.

    Returns:
      A transformation of the form of `precond.outer_products`, whose `update` needs the extra argument `whiten`
      that `precond.scale_by_kronecker` gives: from a stack's name, an axis and its factor to the matrices
      `[N, d, d]` that whiten that axis.

    Raises:
      ValueError, TypeError: for a number out of range.

    Reference:
      Lin et al., Understanding and Improving Shampoo and SOAP via Kullback-Leibler Minimization, 2025.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond.linalg import dense
      >>> statistics = kl(decay=1.0)
      >>> stacks = {"2x1": jnp.asarray([[[1.0], [2.0]]])}
      >>> halve = lambda name, axis, factor: jnp.full_like(factor, 0.5)
      >>> factors, state = statistics.update(stacks, statistics.init(stacks), whiten=halve)
      >>> dense(factors["2x1"][0]).tolist()
      [[[0.25, 0.5], [0.5, 1.0]]]
    """

    def term(
        name: str,
        stack: jax.Array,
        axis: int,
        factors: tuple[Packed | None, ...],
        whiten: Whiten | None,
    ) -> Packed:
        if whiten is None:
            raise TypeError(
                "precond.kl() needs the extra argument whiten=, which precond.scale_by_kronecker gives: put it there, "
                "scale_by_kronecker(precond.kl(), precond.inverse_root())."
            )
        others = math.prod(stack.shape[1:]) / stack.shape[axis + 1] if mean else 1
        for other, factor in enumerate(factors):
            if factor is not None and other != axis:
                stack = multiply_axis(stack, whiten(name, other, dense(factor)), other)
        return Packed(packed_gram(stack, axis).rectangle / others)

    return accumulate_grams(
        term,
        decay=decay,
        weight=weight,
        bias_correction=bias_correction,
        initial=initial,
        axes=axes,
        every=every,
    )

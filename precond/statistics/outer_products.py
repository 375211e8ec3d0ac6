"""Estimate Shampoo's factors by outer products of the gradient with itself along every axis."""

import jax
import optax
from jax.typing import ArrayLike

from precond.arguments import described
from precond.linalg import Packed
from precond.statistics.accumulate_grams import Axes, accumulate_grams
from precond.statistics.statistic import Whiten
from precond.transformation import transformation

__all__ = ["outer_products"]


@described()
def outer_products(
    decay: ArrayLike = 0.99,
    *,
    weight: ArrayLike | None = None,
    bias_correction: bool = True,
    initial: float = 0.0,
    axes: Axes = None,
    every: int = 1,
) -> optax.GradientTransformationExtraArgs:
    r"""Estimate the factors of the second moment of the gradient, one for each axis.

    For the gradient $G$ of a block and its axis $i$, contracted over all other axes $\bar\imath$:

    $$L_i \leftarrow \beta L_i + w \, G \times_{\bar\imath} G$$

    For a matrix these are $G G^\top$ and $G^\top G$.

    Args:
      decay: $\beta$; 1 sums (AdaGrad), less than 1 averages. The default remembers about 100 updates.
      weight: $w$; None takes $1 - \beta$, or 1 for a sum.
      bias_correction: whether to make the factors weighted means of all terms so far, as a division by $1 - \beta^t$
        does. It has an effect on averages that begin at zero and have the default weight.
      initial: the number whose multiple of the identity is the first $L_i$. Google's implementation begins at its
        ridge, Meta's at 0.
      axes: the axes of a block that get a factor, as positions (`[-1]`) or a function from the number of axes to
        positions; None takes all. Positions beyond the block's axes are ignored. An axis that the view made passive
        never has a factor.
      every: the number of updates between two that are accumulated, from the first.

    Returns:
      A transformation from a tree of stacks `[N, d1, .., dk]` to the tree with a tuple in place of each stack. The
      tuple has a factor `[N, d, d]` for each axis, float32 or wider, or None for an axis without one. Factors are kept
      and passed on as triangles, in half the memory (`precond.linalg.Packed`); `precond.linalg.dense` makes matrices of
      them.

    Raises:
      ValueError, TypeError: for a number out of range.

    Reference:
      Gupta, Koren and Singer, Shampoo: Preconditioned Stochastic Tensor Optimization, 2018, Algorithm 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond.linalg import dense
      >>> statistics = outer_products(decay=1.0)
      >>> stacks = {"2x1": jnp.asarray([[[1.0], [2.0]]])}
      >>> factors, state = statistics.update(stacks, statistics.init(stacks))
      >>> [dense(f).tolist() for f in factors["2x1"]]
      [[[[1.0, 2.0], [2.0, 4.0]]], [[[5.0]]]]
    """

    def whole(
        name: str, stack: jax.Array, axis: int, factors: tuple[Packed | None, ...], whiten: Whiten | None
    ) -> jax.Array:
        del name, axis, factors, whiten
        return stack

    init, update = accumulate_grams(
        whole,
        decay=decay,
        weight=weight,
        bias_correction=bias_correction,
        initial=initial,
        axes=axes,
        every=every,
    )
    return transformation(init, update)

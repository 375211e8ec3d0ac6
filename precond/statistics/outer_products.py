"""Shampoo's statistics: outer products of the gradient with itself along every axis."""

import jax
import optax
from jax.typing import ArrayLike

from precond.linalg import Packed, packed_gram
from precond.statistics.accumulate_grams import Axes, accumulate_grams
from precond.statistics.statistic import Whiten
from precond.transformation import transformation

__all__ = ["outer_products"]


def outer_products(
    decay: ArrayLike = 0.99,
    *,
    weight: ArrayLike | None = None,
    bias_correction: bool = True,
    initial: float = 0.0,
    axes: Axes = None,
    every: int = 1,
) -> optax.GradientTransformationExtraArgs:
    r"""Factors of the second moment of the gradient, one an axis.

    For the gradient $G$ of a block and its axis $i$, contracted over all other axes $\bar\imath$:

    $$L_i \leftarrow \beta L_i + w \, G \times_{\bar\imath} G$$

    For a matrix these are $G G^\top$ and $G^\top G$.

    Args:
      decay: $\beta$; 1 sums for ever (AdaGrad), less than 1 averages.
      weight: $w$; None takes $1 - \beta$, or 1 for a sum.
      bias_correction: make the factors weighted means of what was seen, as dividing by $1 - \beta^t$ does; for an
        average that begins at zero and has the default weight.
      initial: $L_i$ begins as this times the identity. Google's implementation begins at its ridge, Meta's at 0.
      axes: which axes of a block get a factor, as positions (`[-1]`) or a function from the number of axes to
        positions; None takes all. An axis that the view made passive never has one.
      every: accumulate on the first update and every so many after it.

    Returns:
      A transformation from a tree of stacks `[N, d1, .., dk]` to the tree with a tuple of factors `[N, d, d]` in
      place of each stack, None for an axis without a factor; float32 or wider. They are kept as triangles, in half
      the memory, and passed on in this form (`precond.linalg.Packed`); `precond.linalg.dense` makes matrices of them.

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

    def term(
        name: str, stack: jax.Array, axis: int, factors: tuple[Packed | None, ...], whiten: Whiten | None
    ) -> Packed:
        del name, factors, whiten
        return packed_gram(stack, axis)

    init, update = accumulate_grams(
        term,
        decay=decay,
        weight=weight,
        bias_correction=bias_correction,
        initial=initial,
        axes=axes,
        every=every,
    )
    return transformation(init, update)

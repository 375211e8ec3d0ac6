"""Make the updates of all neurons equally large in the long run."""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_decay, check_number, check_whole, described
from precond.blocks import refuse_stacks
from precond.linalg import batch_norm
from precond.linalg.divide import divide_or_zero
from precond.transformation import transformation

__all__ = ["NormalizeNeuronsState", "normalize_neurons"]


class NormalizeNeuronsState(NamedTuple):
    """Hold the state of `normalize_neurons`.

    Attributes:
      moment: the average of mean squares of each parameter, of length 1 along the axes of the mean.
    """

    moment: Any


@described(explain=True)
def normalize_neurons(
    decay: ArrayLike = 0.95, *, over: int | Sequence[int] = 0, eps: ArrayLike = 1e-8
) -> optax.GradientTransformationExtraArgs:
    r"""Divide the update of each neuron by the root of its average square, and keep the norm of the whole.

    $$V \leftarrow \beta V + (1 - \beta) \, \mathrm{mean}(O \odot O), \quad
      \hat O = \frac{O}{\sqrt V + \epsilon}, \quad O \leftarrow \hat O \frac{\|O\|}{\|\hat O\|}$$

    with the mean over the inputs of a neuron. For `after=` of `precond.muon` it is NorMuon. With `over=()`, where every
    entry has its own average, it is the second half of AdaMuon. It sees one parameter at a time: inside
    `precond.blocked` put it into `precond.per_block`, as `precond.muon` does.

    Args:
      decay: $\beta$.
      over: the axes of the mean: 0, the inputs of kernels `[inputs, outputs]` as those of Flax; 1 for weights
        `[outputs, inputs]` as those of PyTorch; () for none. Axes that a parameter does not have are left out.
      eps: $\epsilon$, in the units of the update.

    Returns:
      A transformation; updates have the dtype of what comes in.

    Raises:
      ValueError, TypeError: for numbers out of range or of a wrong type; in `update`, for stacks.

    Reference:
      Li et al., NorMuon: Making Muon more efficient and scalable, 2025; Si et al., AdaMuon: Adaptive Muon Optimizer,
      2025.

    Examples:
      >>> tx, g = normalize_neurons(), jnp.asarray([[3.0, 1.0], [3.0, 1.0]])
      >>> # The norm stays.
      >>> [[round(x, 3) for x in row] for row in tx.update(g, tx.init(g))[0].tolist()]
      [[2.236, 2.236], [2.236, 2.236]]
    """
    check_decay("decay", decay)
    check_number("eps", eps, 0)
    given: Sequence[Any] = over if isinstance(over, Sequence) else [over]
    for axis in given:
        check_whole("over", axis, least=0)
    axes = tuple(map(operator.index, given))

    def inputs(x: Any) -> tuple[int, ...]:
        return tuple(axis for axis in axes if axis < jnp.ndim(x))

    def init(params: Any) -> NormalizeNeuronsState:
        def zeros(p: Any) -> jax.Array:
            shape = [1 if axis in inputs(p) else d for axis, d in enumerate(jnp.shape(p))]
            return jnp.zeros(shape, jnp.promote_types(jnp.float32, jnp.finfo(jnp.result_type(p)).dtype))

        return NormalizeNeuronsState(jax.tree.map(zeros, params))

    def update(
        updates: Any, state: NormalizeNeuronsState, params: Any = None, *, blocks: Any = None, **extra: Any
    ) -> tuple[Any, NormalizeNeuronsState]:
        del params, extra
        refuse_stacks("normalize_neurons", blocks)

        def average(x: jax.Array, v: jax.Array) -> jax.Array:
            square = jnp.mean(jnp.square(jnp.abs(x).astype(v.dtype)), inputs(x), keepdims=True)
            return jnp.asarray(decay * v + (1 - decay) * square, v.dtype)

        def divide(x: jax.Array, v: jax.Array) -> jax.Array:
            root = jnp.where(v > 0, jnp.sqrt(jnp.where(v > 0, v, 1)), 0) + eps  # at 0 it has a derivative
            wide = x.astype(jnp.promote_types(v.dtype, x.dtype))
            out = divide_or_zero(wide, root)
            return (out * divide_or_zero(batch_norm(wide), batch_norm(out))).astype(x.dtype)

        moment = jax.tree.map(average, updates, state.moment)
        return jax.tree.map(divide, updates, moment), NormalizeNeuronsState(moment)

    return transformation(init, update)

"""Run M-FAC: natural gradients of a window of gradients."""

import jax
import optax

from precond.arguments import check_decay, check_rate, described
from precond.blocks import refuse_foreign
from precond.compiled_if_eager import compiled_if_eager
from precond.optimizers.finish import decayed
from precond.transforms import (
    block_top_k,
    error_feedback,
    finite_steps,
    lookahead_ema,
    low_rank,
    low_rank_rows,
    scale_by_mfac,
    sparse_rows,
)
from precond.trees import Mask
from precond.widened import widened

__all__ = ["mfac"]


@described(sign=-1)
def mfac(
    learning_rate: optax.ScalarOrSchedule,
    *,
    window: int | None = None,
    damping: jax.typing.ArrayLike = 1e-5,
    density: float | None = None,
    rank: int | None = None,
    b1: jax.typing.ArrayLike = 0.9,
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Mask = None,
    axis: str | tuple[str, ...] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Train with M-FAC: multiply the gradient by the inverse of the empirical Fisher matrix of the last gradients.

    $$F = \lambda I + \frac{1}{m} \sum_{i=1}^m g_i g_i^\top, \quad M \leftarrow \beta_1 M + (1 - \beta_1) F^{-1} g,
      \quad W \leftarrow W - \eta (M + \lambda_w W)$$

    The empirical Fisher matrix says how gradients vary, not how the loss bends: where gradients get small F does not
    scale with the curvature, and the step approaches $\eta g / \lambda$. A learning rate above about λ keeps such a
    run from settling; let it fall, or raise `damping`.

    With a `density` it is EFCP (Sparse-MFAC): in place of g stand the largest entries of what was seen so far and not
    yet used, and the window holds no more than these. With a `rank` it is EFCP in low rank (LR-MFAC): in place of each
    matrix of this stands one of that rank.

    Args:
      learning_rate: $\eta$; a number or an Optax schedule.
      window: m, in whole copies of the parameters where there is no density; None is 64. The paper has up to 1024.
      damping: $\lambda$, in the units of a squared gradient.
      density: which part of the entries of a gradient is kept (`precond.transforms.block_top_k`): 0.01 in the paper of
        EFCP. None keeps all.
      rank: the rank of the matrices that are kept (`precond.transforms.low_rank`); None keeps them whole.
      b1: decay of the momentum $\beta_1$, which is taken after F and starts at 0, as in the official implementation.
      weight_decay: $\lambda_w$, decoupled, a number or an Optax schedule; None leaves it out, and `params` need not
        be given to `update`.
      mask: which parameters decay, as in `optax.adamw`.
      axis: as in `precond.scale_by_mfac`.

    Returns:
      An Optax optimizer. A gradient that is not finite is left out, and the momentum goes on without it.

    Raises:
      ValueError, TypeError: for numbers out of range or of a wrong type, or a density and a rank at once.

    Reference:
      Frantar, Kurtic and Alistarh, M-FAC: Efficient Matrix-Free Approximations of Second-Order Information, 2021;
      Modoranu et al., Error Feedback Can Accurately Compress Preconditioners, 2023.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx, params = mfac(1e-3), {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> params = optax.apply_updates(params, updates)
    """
    check_rate("learning_rate", learning_rate)
    check_decay("b1", b1)
    if density is not None and rank is not None:
        raise ValueError(f"density={density} and rank={rank}: gradients are kept in one of the two forms; choose.")
    if rank is not None:
        compressor, rows = low_rank(rank), low_rank_rows(rank)
    elif density is not None:
        compressor, rows = block_top_k(density), sparse_rows(density)
    else:
        compressor, rows = None, None
    scaled = scale_by_mfac(64 if window is None else window, damping, rows=rows, axis=axis)
    if compressor is not None:
        scaled = finite_steps(optax.chain(error_feedback(compressor), scaled), axis=axis)
    tx = widened(
        optax.chain(
            scaled,
            lookahead_ema(b1, bias_correction=False),
            decayed(weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        )
    )
    return refuse_foreign(compiled_if_eager(tx))

"""Follow Google's Tearfree Shampoo."""

import math
from collections.abc import Sequence

import jax
import optax

from precond.arguments import check_decay, check_number, check_rate, check_whole, described
from precond.blocks import ragged
from precond.engine import blocked, every, scale_by_kronecker
from precond.linalg import Precision
from precond.mesh import Sharded
from precond.recipes.google_views import google_views
from precond.recipes.meta_roots import meta_pseudo_inverse
from precond.statistics import outer_products
from precond.transforms import graft
from precond.widened import widened

__all__ = ["google_tearfree"]

_RMSPROP = optax.scale_by_rms(0.999, 1e-23)
_CUT = 1e-6  # smaller eigenvalues, relative to the largest, have no inverse


@described(sign=-1)
def google_tearfree(
    learning_rate: optax.ScalarOrSchedule = 0.1,
    *,
    merge_dims: int = 1024,
    block_size: int = 1024,
    update_preconditioners_freq: int = 1,
    update_statistics_freq: int = 1,
    second_moment_decay: float = 0.999,
    grafting: optax.GradientTransformation | None = _RMSPROP,
    start_preconditioning_step: int = 0,
    skip_preconditioning_any_dim_gt: int = 4096,
    skip_preconditioning_rank1: bool = True,
    ema: bool = False,
    nesterov: bool = True,
    momentum_decay: float = 0.9,
    weight_decay: float = 0.0,
    weight_decay_after_momentum: bool = True,
    precision: Precision | None = None,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Follow `tearfree` of google-research/precondition with its Shampoo, step by step.

    One momentum is kept, behind the graft. Factors begin at 0, and eigenvalues of at most 1e-6 of the largest have no
    inverse: the root is a pseudo-inverse. The largest is that of the block; the reference takes the largest of all
    blocks of the parameter, so that a small block may have no inverse at all.

    Args:
      learning_rate: a number or a schedule.
      merge_dims: neighbouring axes are merged up to this.
      block_size: the largest size of a block along every axis. The last block may be smaller, where the reference fills
        it up with zeros.
      update_preconditioners_freq: steps between two refreshes, the first at once.
      update_statistics_freq: steps between two accumulations.
      second_moment_decay: the decay of the factors; 1 sums.
      grafting: the transformation whose norm, by parameter, is taken: `optax.scale_by_rms(0.999, 1e-23)` is RMSPROP,
        `optax.scale_by_rss(0.0, 1e-23)` the same with a decay of 1; `optax.identity()` is SGD;
        `optax.chain(optax.adafactor(..), optax.scale(-1))` ADAFACTOR. None takes Shampoo's own norm, and skips no
        parameter.
      start_preconditioning_step: updates that are the graft's.
      skip_preconditioning_any_dim_gt: a parameter with a longer axis gets the graft alone.
      skip_preconditioning_rank1: and so do vectors and scalars.
      ema: weight new terms of the momentum by `1 - momentum_decay`.
      nesterov: whether the momentum is Nesterov's.
      momentum_decay: 0 keeps none.
      weight_decay: added behind the momentum, or before it.
      weight_decay_after_momentum: see above.
      precision: the precision of matrix products, as in `precond.scale_by_kronecker`; None is the highest.
      axis: mesh axes over whose devices blocks are divided, as in `precond.blocked`; the reference's trajectory on any.
      mesh: as in `precond.blocked`.

    Raises:
      ValueError, TypeError: for a number out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx = google_tearfree(0.1, grafting=optax.identity(), momentum_decay=0.0)
      >>> w = jnp.eye(2)
      >>> tx.update(w, tx.init(w), w)[0].round(3).tolist()
      [[-0.10000000149011612, -0.0], [-0.0, -0.10000000149011612]]
    """
    check_rate("learning_rate", learning_rate)
    check_number("second_moment_decay", second_moment_decay, 0, 1, advice="1 sums.")
    check_number("momentum_decay", momentum_decay, 0, 1)
    if ema:
        check_decay("momentum_decay", momentum_decay)
    check_rate("weight_decay", weight_decay)
    check_whole("merge_dims", merge_dims, least=2)
    check_whole("block_size", block_size, least=2)
    check_whole("start_preconditioning_step", start_preconditioning_step, least=0)
    skips = grafting is not None
    direction = blocked(
        scale_by_kronecker(
            outer_products(second_moment_decay, bias_correction=False, every=update_statistics_freq),
            meta_pseudo_inverse(rtol=_CUT),
            refresh=every(update_preconditioners_freq),
            precision=precision,
        ),
        block_size=ragged(block_size),
        views=google_views(
            2 if skips and skip_preconditioning_rank1 else 0,
            skip_preconditioning_any_dim_gt if skips else math.inf,
            merge_dims,
        ),
        otherwise=optax.identity() if grafting is None else grafting,
        axis=axis,
        mesh=mesh,
    )
    if grafting is not None:
        direction = graft(direction, grafting, start=start_preconditioning_step + 1)
    momentum = optax.chain(optax.scale(1 - momentum_decay if ema else 1.0), optax.trace(momentum_decay, nesterov))
    inner = momentum if momentum_decay else optax.identity()
    decay = optax.add_decayed_weights(weight_decay)
    parts = (inner, decay) if weight_decay_after_momentum else (decay, inner)
    return widened(optax.chain(direction, *parts, optax.scale_by_learning_rate(learning_rate)))

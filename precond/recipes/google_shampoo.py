"""Follow Google's Distributed Shampoo."""

import functools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import optax

from precond.arguments import (
    called,
    check_decay,
    check_number,
    check_rate,
    check_transformation,
    check_whole,
    described,
)
from precond.blocks import ragged
from precond.engine import RefreshSchedule, blocked, every, scale_by_kronecker
from precond.linalg import Precision
from precond.mesh import Sharded
from precond.recipes.google_roots import google_eigh
from precond.recipes.google_views import google_views
from precond.recipes.scaled_decay import scaled_decay
from precond.roots import Root
from precond.statistics import outer_products
from precond.transforms import clip_by_rms, graft, switch
from precond.widened import widened

__all__ = ["google_shampoo"]


def _refresh(first: int, more: int | None, learning_rate: optax.ScalarOrSchedule, stale: bool) -> RefreshSchedule:
    """Refresh roots after a number of steps, or after more of them while the learning rate falls."""
    check_whole("preconditioning_compute_steps", first, least=1)
    if more is None:
        return every(first, delay=int(stale))
    check_whole("end_preconditioning_compute_steps", more, least=1)
    if not callable(learning_rate):
        raise ValueError(
            f"end_preconditioning_compute_steps={more}: follows a learning rate that falls, but "
            f"learning_rate={learning_rate} is a number. Pass a schedule, or leave it out."
        )
    with jax.ensure_compile_time_eval():
        if not jnp.asarray(learning_rate(0)) > 0:
            raise ValueError(
                f"end_preconditioning_compute_steps={more}: is compared with the learning rate at the first step, but "
                f"the schedule begins at {learning_rate(0)}. Leave it out, or begin the schedule above 0."
            )

    def period(count: jax.Array) -> jax.Array:
        lost = 1 - jnp.asarray(learning_rate(count)) / jnp.asarray(learning_rate(0))
        return (first + lost * more) // 10 * 10

    return every(period, delay=int(stale))


def _magnitude(
    grafting: Callable[[], optax.GradientTransformation] | None, clip: float | None, scale: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Make the transformation whose norm is taken."""
    made = optax.identity() if grafting is None else called("grafting", grafting)
    check_transformation("grafting()", made)
    return optax.chain(made, optax.identity() if clip is None else clip_by_rms(clip), scale)


def _check_momentum(beta1: Any, averaged: bool) -> None:
    check_number("beta1", beta1, 0, 1)
    if averaged:
        check_decay("beta1", beta1)


@described(sign=-1)
def google_shampoo(
    learning_rate: optax.ScalarOrSchedule = 0.1,
    *,
    block_size: int = 128,
    beta1: float = 0.9,
    beta2: float = 0.999,
    grafting: Callable[[], optax.GradientTransformation] | None = optax.identity,
    matrix_epsilon: float = 1e-6,
    clip_by_scaled_gradient_norm: float | None = None,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    decoupled_learning_rate: bool = True,
    start_preconditioning_step: int = 5,
    preconditioning_compute_steps: int = 1,
    end_preconditioning_compute_steps: int | None = None,
    statistics_compute_steps: int = 1,
    merge_small_dims_block_size: int = 4096,
    nesterov: bool = True,
    exponent_override: int = 0,
    axes: Sequence[int] | Callable[[int], Sequence[int]] | None = None,
    moving_average_for_momentum: bool = False,
    skip_preconditioning_dim_size_gt: int = 4096,
    skip_preconditioning_rank_lt: int = 1,
    root: Callable[..., Root] = google_eigh,
    stale: bool = False,
    precision: Precision | None = None,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Follow `distributed_shampoo` of google-research/precondition, step by step.

    Two momenta are kept, one of the grafted direction and one of the graft alone; the second is used up to
    `start_preconditioning_step`.

    Args:
      learning_rate: a number or a schedule.
      block_size: the largest size of a block along every axis.
      beta1: the decay of the momenta.
      beta2: the decay of the factors; 1 sums.
      grafting: makes the transformation whose norm, by parameter, is taken (called twice): `optax.identity` is SGD;
        `lambda: precond.transforms.scale_by_diagonal(1.0, eps=1e-10)` ADAGRAD;
        `precond.transforms.scale_by_diagonal(beta2, ..)` RMSPROP; with `precond.transforms.normalize()` chained before
        it, the NORMALIZED ones; `optax.scale_by_sign` SQRT_N. None takes Shampoo's own norm.
      matrix_epsilon: relative ridge, and the factors' start.
      clip_by_scaled_gradient_norm: the largest root mean square of the graft; None does not clip it.
      weight_decay: added before the momenta, or after them if decoupled.
      decoupled_weight_decay: see above.
      decoupled_learning_rate: off scales the graft instead of the momenta; a direction that is not grafted is then
        not scaled at all.
      start_preconditioning_step: updates before Shampoo's momentum is used.
      preconditioning_compute_steps: steps between two refreshes, the first at once.
      end_preconditioning_compute_steps: how many steps more there are between two refreshes when the learning rate has
        fallen to 0, with `decay_preconditioning_compute_steps`. While it falls they grow in proportion to what it has
        lost, rounded down to tens. None keeps them as they are; the learning rate must be a schedule otherwise.
      statistics_compute_steps: steps between two accumulations.
      merge_small_dims_block_size: neighbouring axes are merged up to this; 0 is
        `best_effort_shape_interpretation=False`.
      nesterov: whether both momenta are Nesterov's.
      exponent_override: p of `A^(-1/p)`; 0 is twice the number of factors.
      axes: the axes that have factors: None is ALL; `lambda k: range(max(k - 1, 1))` INPUT; `[-1]` OUTPUT.
      moving_average_for_momentum: weight new terms by `1 - beta1`.
      skip_preconditioning_dim_size_gt: a parameter with a longer axis gets the graft alone.
      skip_preconditioning_rank_lt: and so does one of fewer axes.
      root: a function from `matrix_epsilon` and the keyword `power` to a `precond.Root`: `recipes.google_eigh`, or its
        default `recipes.google_newton`; `functools.partial(.., relative=False)` makes the ridge absolute, and
        `inverse_failure_threshold=` there says which roots are refused.
      stale: use roots from the step after the one in which they are computed, as its sharded mode does.
      precision: the precision of matrix products, as in `precond.scale_by_kronecker`; None is the highest.
      axis: mesh axes over whose devices blocks are divided, as in `precond.blocked`; the reference's trajectory on any.
      mesh: as in `precond.blocked`.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx, w = google_shampoo(0.1, start_preconditioning_step=0), jnp.ones((3, 2))
      >>> # This is 0.1 (1 + beta1).
      >>> round(
      ...     float(jnp.linalg.norm(tx.update(w, tx.init(w), w)[0]) / jnp.linalg.norm(w)), 4
      ... )
      0.19
    """
    check_rate("learning_rate", learning_rate)
    _check_momentum(beta1, moving_average_for_momentum)
    check_number("beta2", beta2, 0, 1, advice="1 sums.")
    check_number("matrix_epsilon", matrix_epsilon, 0)
    check_rate("weight_decay", weight_decay)
    check_whole("start_preconditioning_step", start_preconditioning_step, least=0)
    check_whole("exponent_override", exponent_override, least=0)
    decayed: Any = weight_decay
    if decoupled_weight_decay and not decoupled_learning_rate:
        decayed = scaled_decay(weight_decay, learning_rate)
    scale = optax.scale_by_learning_rate(learning_rate, flip_sign=False)
    magnitude = functools.partial(
        _magnitude, grafting, clip_by_scaled_gradient_norm, optax.identity() if decoupled_learning_rate else scale
    )

    direction = blocked(
        scale_by_kronecker(
            outer_products(
                beta2, bias_correction=False, initial=matrix_epsilon, axes=axes, every=statistics_compute_steps
            ),
            called("root", root, matrix_epsilon, power=Fraction(1, exponent_override) if exponent_override else None),
            refresh=_refresh(preconditioning_compute_steps, end_preconditioning_compute_steps, learning_rate, stale),
            precision=precision,
        ),
        block_size=ragged(block_size),
        views=google_views(skip_preconditioning_rank_lt, skip_preconditioning_dim_size_gt, merge_small_dims_block_size),
        otherwise=magnitude(),
        axis=axis,
        mesh=mesh,
    )
    if grafting is not None:
        direction = graft(direction, magnitude(), eps=1e-25)
    decay = optax.add_decayed_weights(decayed)

    def with_momentum(tx: optax.GradientTransformation) -> optax.GradientTransformation:
        return optax.chain(
            tx,
            optax.identity() if decoupled_weight_decay else decay,
            optax.scale(1 - beta1 if moving_average_for_momentum else 1.0),
            optax.trace(beta1, nesterov),
            decay if decoupled_weight_decay else optax.identity(),
        )

    last = optax.scale_by_learning_rate(learning_rate) if decoupled_learning_rate else optax.scale(-1.0)
    return widened(
        optax.chain(switch(start_preconditioning_step + 1, with_momentum(magnitude()), with_momentum(direction)), last)
    )

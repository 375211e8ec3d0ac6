"""Run Shampoo, grafted onto Adam."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import jax
import optax

from precond.arguments import (
    as_direction,
    check_decay,
    check_direction,
    check_idle,
    check_number,
    described,
)
from precond.blocks import BlockSize, Views
from precond.engine import SKIPPED, RefreshSchedule, as_schedule, blocked, every
from precond.linalg import Precision
from precond.mesh import Sharded
from precond.optimizers.finish import finish
from precond.optimizers.grafted import grafted
from precond.optimizers.memory import Memory, memory_of
from precond.roots import Method, inverse_root, relative
from precond.statistics import outer_products
from precond.transforms import scale_by_diagonal
from precond.transforms.adam import adam
from precond.trees import Mask

__all__ = ["default_schedule", "scale_by_shampoo", "shampoo"]


@described(sign=1, explain=True)
def scale_by_shampoo(
    *,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike = 1e-15,
    damping: jax.typing.ArrayLike = 1e-6,
    power: float | Fraction | None = Fraction(1, 3),
    refresh: RefreshSchedule | int | None = None,
    magnitude: optax.GradientTransformation | None = None,
    method: Method | None = None,
    block_size: BlockSize = None,
    views: Views | Sequence[Any] | None = None,
    otherwise: optax.GradientTransformation | None = None,
    skipped: float = 0.0,
    precision: Precision | None = None,
    memory: Memory | None = None,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Do what `precond.shampoo` does, without weight decay and learning rate.

    Updates go along the gradient: a trainer that ends the chain itself multiplies them by minus its learning rate.

    Args:
      b1: as in `precond.shampoo`.
      b2: as in `precond.shampoo`.
      eps: as in `precond.shampoo`.
      damping: as in `precond.shampoo`.
      power: as in `precond.shampoo`.
      refresh: as in `precond.shampoo`.
      magnitude: as in `precond.shampoo`.
      method: as in `precond.shampoo`.
      block_size: as in `precond.shampoo`.
      views: as in `precond.shampoo`.
      otherwise: as in `precond.shampoo`.
      skipped: as in `precond.blocked`.
      precision: as in `precond.shampoo`.
      memory: as in `precond.shampoo`.
      axis: as in `precond.shampoo`.
      mesh: as in `precond.shampoo`.

    Returns:
      A transformation of parameters.

    Raises:
      ValueError, TypeError: as `precond.shampoo`.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx = optax.chain(
      ...     scale_by_shampoo(),
      ...     optax.add_decayed_weights(1e-4),
      ...     optax.scale_by_learning_rate(1e-3),
      ... )
      >>> params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
      >>> updates, state = tx.update(params, tx.init(params), params)
    """
    check_decay("b1", b1)
    check_number("b2", b2, 0, 1, advice="1 sums the factors.")
    check_number("damping", damping, 0)
    usual = default_schedule(axis)
    schedule = usual if refresh is None else as_schedule(refresh, delay=usual.delay)
    if magnitude is not None and otherwise is not None:
        check_idle("magnitude= and otherwise=", eps=(eps, 1e-15))
    kept = memory_of(memory)
    root = kept.of_root(inverse_root(power=power, method=method, damping=relative(damping)))
    adams = scale_by_diagonal(b2, eps=eps, bias_correction=True)  # with the momentum around it
    moved = {"momentum": optax.ema(b1), "refresh": schedule, "precision": precision}
    tx = blocked(
        as_direction(
            kept.of_entries(grafted(outer_products(b2), root, adams if magnitude is None else magnitude, **moved))
        ),
        block_size=1024 if block_size is None else block_size,
        views=views,
        otherwise=as_direction(kept.of_entries(adam(b1, b2, eps))) if otherwise is None else otherwise,
        skipped=skipped,
        axis=axis,
        mesh=mesh,
    )
    return check_direction(tx, on_stacks={"magnitude": magnitude}, otherwise=otherwise)


def default_schedule(axis: str | Sequence[str] | Sharded | None) -> RefreshSchedule:
    """Return the schedule of `precond.shampoo` and `precond.scale_by_shampoo`, which depends on `axis=`.

    Args:
      axis: as in `precond.shampoo`.

    Examples:
      >>> default_schedule(None).delay, default_schedule("data").delay
      (0, 1)
    """
    return every(20, stagger=True, delay=0 if axis is None else 1)


@described(sign=-1)
def shampoo(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike = 1e-15,
    damping: jax.typing.ArrayLike = 1e-6,
    power: float | Fraction | None = Fraction(1, 3),
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Mask = None,
    refresh: RefreshSchedule | int | None = None,
    magnitude: optax.GradientTransformation | None = None,
    method: Method | None = None,
    block_size: BlockSize = None,
    views: Views | Sequence[Any] | None = None,
    otherwise: optax.GradientTransformation | None = None,
    precision: Precision | None = None,
    memory: Memory | None = None,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Train with Shampoo: multiply the momentum of each block on every axis by an inverse root of its factor.

    $$L \leftarrow \beta_2 L + (1 - \beta_2) G G^\top, \quad R \leftarrow \beta_2 R + (1 - \beta_2) G^\top G, \quad
      D = \hat L^{-1/3} \hat M \hat R^{-1/3}, \quad W \leftarrow W - \eta \Big(D \frac{\|U\|}{\|D\|} + \lambda W\Big)$$

    with $\hat{}$ for bias correction, $M$ the moving average of $G$ and $U$ Adam's update; a tensor of k axes has k
    factors. Parameters without a view (vectors, embeddings) get Adam's update.

    Args:
      learning_rate: $\eta$, as large as Adam's or a few times larger; a number or an Optax schedule.
      b1: decay of the momentum, $\beta_1$.
      b2: decay of the factors and of Adam's second moment, $\beta_2$; 1 sums the factors.
      eps: the epsilon of Adam's denominator.
      damping: added to each factor, relative to its largest eigenvalue.
      power: the power of the inverse roots; None is 1/(2k), the paper's. On the tasks of the quality benchmark 1/3
        needs fewer steps than 1/4, the paper's for matrices. 1/2 needs still fewer where gradients are noisy, and fails
        where they are not.
      weight_decay: $\lambda$, decoupled, a number or an Optax schedule; None leaves it out, and `params` need not
        be given to `update`.
      mask: which parameters decay, as in `optax.adamw`.
      refresh: `precond.every`, or a number of steps n: all roots at once. None is every root every 20 steps, in turns.
        With `axis=` a number and None have `delay=1`: no direction waits for a refresh, so that directions travel while
        statistics and roots are computed. The roots that a step uses are then one step older.
      magnitude: a transformation in place of Adam; it sees blocks of the momentum, and of the gradients as
        `precond.BlockInfo.gradients`. `optax.identity()` is SGD's.
      method: how roots are computed: `precond.roots.by_platform()` (the default: `eigh` on CPU, `composite` elsewhere),
        `precond.eigh()`, `precond.composite()` or `precond.newton()`.
      block_size: the longest side of a block; None is 1024.
      views: as in `precond.blocked`.
      otherwise: the transformation of parameters without a view; None is Adam with the same `b1`, `b2` and `eps`.
      precision: the precision of matrix products, as in `precond.scale_by_kronecker`; None is the highest.
      memory: what is kept in bfloat16: `precond.Memory()` keeps momentum, second moments and roots so, and None keeps
        them in float32.
      axis: mesh axes over whose devices blocks, roots and the state are divided, as in `precond.blocked`.
      mesh: as in `precond.blocked`.

    Returns:
      An Optax optimizer. Under `optax.inject_hyperparams` pass `static_args=precond.static_args(precond.shampoo)`.

    Raises:
      ValueError, TypeError: for numbers out of range or of a wrong type; for an `eps` beside `magnitude` and
        `otherwise`, which has no effect.

    Reference:
      Gupta, Koren and Singer, 2018; Anil et al., Scalable Second Order Optimization for Deep Learning, 2020; Shi et
      al., A Distributed Data-Parallel PyTorch Implementation of the Distributed Shampoo Optimizer, 2023.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx, params = shampoo(1e-3), {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> params = optax.apply_updates(params, updates)
    """
    tx = scale_by_shampoo(
        b1=b1,
        b2=b2,
        eps=eps,
        damping=damping,
        power=power,
        refresh=refresh,
        magnitude=magnitude,
        method=method,
        block_size=block_size,
        views=views,
        otherwise=otherwise,
        skipped=SKIPPED,
        precision=precision,
        memory=memory,
        axis=axis,
        mesh=mesh,
    )
    return finish(tx, learning_rate, weight_decay, mask)

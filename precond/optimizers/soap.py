"""Run SOAP: Adam in Shampoo's eigenbasis."""

from collections.abc import Sequence
from typing import Any

import jax
import optax

from precond.arguments import as_direction, check_decay, check_direction, check_number, described
from precond.blocks import BlockSize, Views
from precond.engine import SKIPPED, RefreshSchedule, as_schedule, blocked, every
from precond.linalg import Precision
from precond.mesh import Sharded
from precond.optimizers.finish import finish
from precond.optimizers.grafted import grafted
from precond.optimizers.memory import Memory, memory_of
from precond.roots import Method, Transport, eigenbasis, rotated
from precond.statistics import outer_products
from precond.transforms.adam import adam
from precond.trees import Mask

__all__ = ["scale_by_soap", "soap"]


@described(sign=1, explain=True)
def scale_by_soap(
    *,
    b1: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike | None = None,
    refresh: RefreshSchedule | int = every(10, stagger=True, delay=1, warmup=1),
    method: Method | None = None,
    transport: Transport | None = None,
    magnitude: optax.GradientTransformation | None = None,
    block_size: BlockSize = None,
    views: Views | Sequence[Any] | None = None,
    otherwise: optax.GradientTransformation | None = None,
    skipped: float = 0.0,
    precision: Precision | None = None,
    memory: Memory | None = None,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Do what `precond.soap` does, without weight decay and learning rate.

    Updates go along the gradient: a trainer that ends the chain itself multiplies them by minus its learning rate.

    Args:
      b1: as in `precond.soap`.
      b2: as in `precond.soap`.
      eps: as in `precond.soap`.
      refresh: as in `precond.soap`.
      method: as in `precond.soap`.
      transport: as in `precond.soap`.
      magnitude: as in `precond.soap`.
      block_size: as in `precond.soap`.
      views: as in `precond.soap`.
      otherwise: as in `precond.soap`.
      skipped: as in `precond.blocked`.
      precision: as in `precond.soap`.
      memory: as in `precond.soap`.
      axis: as in `precond.soap`.
      mesh: as in `precond.soap`.

    Returns:
      A transformation of parameters.

    Raises:
      ValueError, TypeError: as `precond.soap`.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx = optax.chain(
      ...     scale_by_soap(),
      ...     optax.add_decayed_weights(1e-4),
      ...     optax.scale_by_learning_rate(3e-3),
      ... )
      >>> params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
      >>> updates, state = tx.update(params, tx.init(params), params)
    """
    refresh = as_schedule(refresh, delay=1, warmup=1)
    check_decay("b1", b1)
    check_number("b2", b2, 0, 1, advice="1 sums.")
    kept = memory_of(memory)
    root = kept.of_root(eigenbasis(b2, eps=eps, method=method, transport=rotated() if transport is None else transport))
    moved = {"momentum": optax.ema(b1), "refresh": refresh, "precision": precision}
    tx = blocked(
        as_direction(kept.of_entries(grafted(outer_products(b2), root, magnitude, **moved), "ema")),
        block_size=1024 if block_size is None else block_size,
        views=views,
        otherwise=as_direction(kept.of_entries(adam(b1, b2, eps))) if otherwise is None else otherwise,
        skipped=skipped,
        axis=axis,
        mesh=mesh,
    )
    return check_direction(tx, on_stacks={"magnitude": magnitude}, otherwise=otherwise)


@described(sign=-1)
def soap(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike | None = None,
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Mask = None,
    refresh: RefreshSchedule | int = every(10, stagger=True, delay=1, warmup=1),
    method: Method | None = None,
    transport: Transport | None = None,
    magnitude: optax.GradientTransformation | None = None,
    block_size: BlockSize = None,
    views: Views | Sequence[Any] | None = None,
    otherwise: optax.GradientTransformation | None = None,
    precision: Precision | None = None,
    memory: Memory | None = None,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Train with SOAP: run Adam in the slowly turning eigenbasis of Shampoo's factors.

    $$G' = Q_L^\top G Q_R, \quad V \leftarrow \beta_2 V + (1 - \beta_2) G' \odot G', \quad
      W \leftarrow W - \eta \Big(Q_L \frac{Q_L^\top \hat M Q_R}{\sqrt{\hat V} + \epsilon} Q_R^\top
      + \lambda W\Big)$$

    with $\hat{}$ for bias correction, $M$ the moving average of $G$, and $Q_L, Q_R$ the eigenvectors of the moving
    averages of $G G^\top$ and $G^\top G$, refreshed by one QR decomposition each. As in the official implementation the
    first update only feeds the statistics (matrices stay where they are). So no gradient is rotated into a basis that
    was made from itself, but for a second gradient that equals the first. Most of its entries there are rounding.
    Unlike there, $V$ is rotated with the bases, and $\epsilon$ is added after bias correction, as in Adam. For the
    official behaviour to the last digit see `precond.recipes.official_soap`.

    Args:
      learning_rate: $\eta$, of Adam's size; a number or an Optax schedule.
      b1: decay of the momentum, $\beta_1$.
      b2: decay of the factors and of the second moment, $\beta_2$.
      eps: $\epsilon$, in the units of the gradient; None takes 1e-7 of the root mean square of the block's denominator,
        so that no scale of the gradients matters.
      weight_decay: $\lambda$, decoupled, a number or an Optax schedule; None leaves it out, and `params` need not
        be given to `update`.
      mask: which parameters decay, as in `optax.adamw`.
      refresh: `precond.every`, or a number of steps n for `every(n, delay=1, warmup=1)`: all bases at once, as the
        official implementation. By default each basis every 10 steps, in turns. With `delay=0` the first gradient is
        rotated into the basis that was made from itself, where most of its entries are rounding.
      method: how bases are refreshed: `precond.qr()` (the default on CPU), `precond.roots.rotations()`,
        `precond.roots.cholesky_qr()` or `precond.eigh()`.
      transport: what becomes of V when a basis is refreshed: `precond.roots.rotated()` (the default), or
        `precond.roots.unchanged()`, as the official SOAP does. With it, updates grow to many times their size for some
        steps after one very large gradient.
      magnitude: a transformation of blocks to whose norm each block's step is scaled, as in `precond.shampoo`.
        `precond.transforms.scale_by_diagonal(0.95, eps=1e-15, bias_correction=True)` is Adam's. None leaves steps as
        long as they are.
      block_size: the longest side of a block; None is 1024.
      views: as in `precond.blocked`.
      otherwise: the transformation of parameters without a view; None is Adam with the same `b1`, `b2` and `eps`.
      precision: the precision of matrix products, as in `precond.scale_by_kronecker`; None is the highest.
      memory: what is kept in 16 bits: `precond.Memory()` keeps momentum, second moments and bases so, and None keeps
        them in float32.
      axis: mesh axes over whose devices blocks, bases and the state are divided, as in `precond.blocked`.
      mesh: as in `precond.blocked`.

    Returns:
      An Optax optimizer. Under `optax.inject_hyperparams` pass `static_args=precond.static_args(precond.soap)`.

    Raises:
      ValueError, TypeError: for numbers out of range or of a wrong type.

    Reference:
      Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam, 2024.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx, params = soap(3e-3), {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> params = optax.apply_updates(params, updates)
    """
    tx = scale_by_soap(
        b1=b1,
        b2=b2,
        eps=eps,
        refresh=refresh,
        method=method,
        transport=transport,
        magnitude=magnitude,
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

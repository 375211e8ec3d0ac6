"""Run KL-SOAP: Adam in the eigenbasis of factors fitted in Kullback-Leibler divergence."""

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
from precond.roots import Method, Transport, eigenbasis, relative, rotated
from precond.statistics import kl
from precond.transforms.adam import adam
from precond.trees import Mask

__all__ = ["kl_soap", "scale_by_kl_soap"]

_LEAST = 1e-4  # for refresh=every(1): in the basis that is made from itself, zeros of a gradient are rounding


@described(sign=1, explain=True)
def scale_by_kl_soap(
    *,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike | None = None,
    damping: jax.typing.ArrayLike = 1e-4,
    refresh: RefreshSchedule | int = every(1, delay=1, warmup=1),
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
    """Do what `precond.kl_soap` does, without weight decay and learning rate.

    Updates go along the gradient: a trainer that ends the chain itself multiplies them by minus its learning rate.

    Args:
      b1: as in `precond.kl_soap`.
      b2: as in `precond.kl_soap`.
      eps: as in `precond.kl_soap`.
      damping: as in `precond.kl_soap`.
      refresh: as in `precond.kl_soap`.
      method: as in `precond.kl_soap`.
      transport: as in `precond.kl_soap`.
      magnitude: as in `precond.kl_soap`.
      block_size: as in `precond.kl_soap`.
      views: as in `precond.kl_soap`.
      otherwise: as in `precond.kl_soap`.
      skipped: as in `precond.blocked`.
      precision: as in `precond.kl_soap`.
      memory: as in `precond.kl_soap`.
      axis: as in `precond.kl_soap`.
      mesh: as in `precond.kl_soap`.

    Returns:
      A transformation of parameters.

    Raises:
      ValueError, TypeError: as `precond.kl_soap`.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx, params = scale_by_kl_soap(), {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
      >>> updates, state = tx.update(params, tx.init(params))
    """
    check_decay("b1", b1)
    check_number("b2", b2, 0, 1, advice="1 sums.")
    check_number("damping", damping, 0)
    refresh = as_schedule(refresh, delay=1, warmup=1)
    transport = rotated() if transport is None else transport
    kept = memory_of(memory)
    root = eigenbasis(b2, eps=eps, method=method, transport=transport, damping=relative(damping), least=_LEAST)
    moved = {"momentum": optax.ema(b1), "refresh": refresh, "precision": precision}
    tx = blocked(
        as_direction(kept.of_entries(grafted(kl(b2), kept.of_root(root), magnitude, **moved), "ema")),
        block_size=1024 if block_size is None else block_size,
        views=views,
        otherwise=as_direction(kept.of_entries(adam(b1, b2, eps))) if otherwise is None else otherwise,
        skipped=skipped,
        axis=axis,
        mesh=mesh,
    )
    return check_direction(tx, on_stacks={"magnitude": magnitude}, otherwise=otherwise)


@described(sign=-1)
def kl_soap(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike | None = None,
    damping: jax.typing.ArrayLike = 1e-4,
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Mask = None,
    refresh: RefreshSchedule | int = every(1, delay=1, warmup=1),
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
    r"""Train with KL-SOAP: run Adam in the eigenbasis of KL-Shampoo's factors, refreshed in every step.

    $$L \leftarrow \beta_2 L + \frac{1 - \beta_2}{n} G \hat R^{-1} G^\top, \quad
      R \leftarrow \beta_2 R + \frac{1 - \beta_2}{m} G^\top \hat L^{-1} G, \quad
      W \leftarrow W - \eta \Big(Q_L \frac{Q_L^\top \hat M Q_R}{\sqrt{\hat V} + \epsilon} Q_R^\top + \lambda W\Big)$$

    with $\hat{}$ for bias correction, M the moving average of G `[m, n]`, $Q_L, Q_R$ the eigenvectors of L and R, and V
    the moving average of $(Q_L^\top G Q_R)^2$. Every basis takes one step of orthogonal iteration in each step. The
    momentum is kept in the parameter's own basis, and V is rotated with the bases (`precond.roots.rotated`). By default
    a gradient is read in the bases of the step before. NVIDIA refreshes them first, as `refresh=precond.every(1)` does;
    its `KlSoapV3` to the last digit is `precond.recipes.nvidia_kl_soap`.

    Args:
      learning_rate: $\eta$, of Adam's size; a number or an Optax schedule.
      b1: decay of the momentum, $\beta_1$.
      b2: decay of the factors and of the second moment, $\beta_2$.
      eps: $\epsilon$, in the units of the gradient; None takes 1e-4 of the root mean square of the block's denominator.
        With `delay=0` do not give a much smaller one. A gradient is then read in the basis that was made from it. In
        the first steps its entries there are rounding, but for the diagonal. A small eps would divide them by
        themselves.
      damping: added to the eigenvalues by which the factors whiten the gradient, relative to the largest.
      weight_decay: $\lambda$, decoupled, a number or an Optax schedule; None leaves it out, and `params` need not
        be given to `update`.
      mask: which parameters decay, as in `optax.adamw`.
      refresh: `precond.every`, or a number of steps n for `every(n, delay=1, warmup=1)`. By default all bases in every
        step, each gradient in the bases of before, as in `precond.soap`; the first update only feeds the statistics.
        `precond.every(1)` refreshes before use, as NVIDIA does. On the tasks of the quality benchmark both train as
        well, but then rounding chooses a part of the first updates. In matrices of very few rows or columns it does so
        by default, too, where their first gradients leave eigenvectors undecided.
        `precond.every(10, stagger=True, delay=1, warmup=1)` takes a tenth of the work.
      method: how bases are refreshed: `precond.qr()` (the default on CPU), `precond.roots.rotations()`,
        `precond.roots.cholesky_qr()`, or `precond.eigh()`, which makes it NVIDIA's REKLS.
      transport: what becomes of V when a basis is refreshed: `precond.roots.rotated()` (the default), or
        `precond.roots.unchanged()`.
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
      mesh: the mesh, as in `precond.blocked`.

    Returns:
      An Optax optimizer. Under `optax.inject_hyperparams` pass `static_args=precond.static_args(precond.kl_soap)`.

    Raises:
      ValueError, TypeError: for numbers out of range or of a wrong type.

    Reference:
      Lin et al., Understanding and Improving Shampoo and SOAP via Kullback-Leibler Minimization, 2025.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx, params = kl_soap(1e-3), {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> params = optax.apply_updates(params, updates)
    """
    averages = {"b1": b1, "b2": b2, "eps": eps, "otherwise": otherwise}
    bases = {"damping": damping, "refresh": refresh, "method": method, "transport": transport, "magnitude": magnitude}
    stacks = {"block_size": block_size, "views": views, "axis": axis, "mesh": mesh}
    numbers = {"precision": precision, "memory": memory}
    tx = scale_by_kl_soap(**averages, **bases, **stacks, **numbers, skipped=SKIPPED)
    return finish(tx, learning_rate, weight_decay, mask)

"""Run KL-Shampoo, whose factors estimate the covariance of the gradient itself."""

from collections.abc import Sequence
from typing import Any

import jax
import optax

from precond.arguments import as_direction, check_decay, check_direction, check_idle, check_number, described
from precond.blocks import BlockSize, Views
from precond.engine import SKIPPED, RefreshSchedule, blocked, every
from precond.linalg import Precision
from precond.mesh import Sharded
from precond.optimizers.finish import finish
from precond.optimizers.grafted import grafted
from precond.optimizers.memory import Memory, memory_of
from precond.roots import Method, Root, inverse_root, relative, waiting
from precond.statistics import kl
from precond.transforms import clip_by_rms, scale_by_mean_square
from precond.transforms.adam import adam
from precond.trees import Mask

__all__ = ["kl_shampoo", "scale_by_kl_shampoo"]


@described(sign=1, explain=True)
def scale_by_kl_shampoo(
    *,
    b1: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike = 1e-15,
    damping: jax.typing.ArrayLike = 1e-4,
    refresh: RefreshSchedule | int = every(10, stagger=True),
    magnitude: optax.GradientTransformation | None = scale_by_mean_square(0.95),
    method: Method | None = None,
    root: Root | None = None,
    block_size: BlockSize = None,
    views: Views | Sequence[Any] | None = None,
    otherwise: optax.GradientTransformation | None = None,
    skipped: float = 0.0,
    precision: Precision | None = None,
    memory: Memory | None = None,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Do what `precond.kl_shampoo` does, without weight decay and learning rate.

    Updates go along the gradient: a trainer that ends the chain itself multiplies them by minus its learning rate.

    Args:
      b1: as in `precond.kl_shampoo`.
      b2: as in `precond.kl_shampoo`.
      eps: as in `precond.kl_shampoo`.
      damping: as in `precond.kl_shampoo`.
      refresh: as in `precond.kl_shampoo`.
      magnitude: as in `precond.kl_shampoo`.
      method: as in `precond.kl_shampoo`.
      root: as in `precond.kl_shampoo`.
      block_size: as in `precond.kl_shampoo`.
      views: as in `precond.kl_shampoo`.
      otherwise: as in `precond.kl_shampoo`.
      skipped: as in `precond.blocked`.
      precision: as in `precond.kl_shampoo`.
      memory: as in `precond.kl_shampoo`.
      axis: as in `precond.kl_shampoo`.
      mesh: as in `precond.kl_shampoo`.

    Returns:
      A transformation of parameters.

    Raises:
      ValueError, TypeError: as `precond.kl_shampoo`.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx = optax.chain(scale_by_kl_shampoo(), optax.scale_by_learning_rate(1e-3))
      >>> params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
      >>> updates, state = tx.update(params, tx.init(params), params)
    """
    check_decay("b1", b1)
    check_number("b2", b2, 0, 1, advice="1 sums the factors.")
    check_number("eps", eps, 0)
    check_number("damping", damping, 0)
    if otherwise is not None:
        check_idle("otherwise=", eps=(eps, 1e-15))
    if root is None:
        root = waiting(inverse_root(power=0.5, method=method, damping=relative(damping)))
    elif method is not None:
        raise ValueError(f"method={method} and root={root}: a root has its own method; give it there.")
    else:
        check_idle("root=", damping=(damping, 1e-4))
    kept, moved = memory_of(memory), {"momentum": optax.ema(b1), "after": clip_by_rms(1.0)}
    direction = grafted(kl(b2), kept.of_root(root), magnitude, **moved, refresh=refresh, precision=precision)
    tx = blocked(
        as_direction(kept.of_entries(direction)),
        block_size=1024 if block_size is None else block_size,
        views=views,
        otherwise=as_direction(kept.of_entries(adam(b1, b2, eps))) if otherwise is None else otherwise,
        skipped=skipped,
        axis=axis,
        mesh=mesh,
    )
    return check_direction(tx, on_stacks={"magnitude": magnitude}, otherwise=otherwise)


@described(sign=-1)
def kl_shampoo(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike = 1e-15,
    damping: jax.typing.ArrayLike = 1e-4,
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Mask = None,
    refresh: RefreshSchedule | int = every(10, stagger=True),
    magnitude: optax.GradientTransformation | None = scale_by_mean_square(0.95),
    method: Method | None = None,
    root: Root | None = None,
    block_size: BlockSize = None,
    views: Views | Sequence[Any] | None = None,
    otherwise: optax.GradientTransformation | None = None,
    precision: Precision | None = None,
    memory: Memory | None = None,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Train with KL-Shampoo: fit the factors to the gradient's covariance in Kullback-Leibler divergence.

    $$L \leftarrow \beta_2 L + \frac{1 - \beta_2}{n} G \hat R^{-1} G^\top, \quad
      R \leftarrow \beta_2 R + \frac{1 - \beta_2}{m} G^\top \hat L^{-1} G, \quad
      D = \hat L^{-1/2} \hat M \hat R^{-1/2}, \quad
      W \leftarrow W - \eta \Big(D \frac{\|U\|}{\|D\|} + \lambda W\Big), \quad U = M / \mathrm{rms}(G)$$

    with $\hat{}$ for bias correction and M the moving average of G `[m, n]`. $L \otimes R$ estimates the covariance
    of vec G itself, so that the step has about Adam's size without Adam's second moment. But roots are as old as their
    refresh period, and a step is too long by as much as the gradient has grown since. So each block's step is scaled to
    the norm of M by the root mean square of its gradients, which is one number a block. With `magnitude=None` it is as
    in the paper, and scaled down to a root mean square of 1 if it is longer.

    Args:
      learning_rate: $\eta$, of Adam's size; a number or an Optax schedule.
      b1: decay of the momentum, $\beta_1$.
      b2: decay of the factors, $\beta_2$.
      eps: the epsilon of Adam's denominator, for parameters without a view.
      damping: added to each factor, relative to its largest eigenvalue. Larger than Shampoo's, since the power is:
        1e-4 lets rounding in either factor grow by at most 100.
      weight_decay: $\lambda$, decoupled, a number or an Optax schedule; None leaves it out, and `params` need not
        be given to `update`.
      mask: which parameters decay, as in `optax.adamw`.
      refresh: `precond.every`, or a number of steps (all roots at once). By default each root every 10 steps, in turns.
      magnitude: a transformation of blocks to whose norm each block's step is scaled, as in `precond.shampoo`. The
        default has a decay of its own, 0.95. `precond.transforms.scale_by_diagonal(0.95, eps=1e-15,
        bias_correction=True)` is Adam's. None leaves steps as long as they are.
      method: how roots are computed: `precond.roots.by_platform()` (the default: `eigh` on CPU, `composite` elsewhere),
        `precond.eigh()`, `precond.composite()` or `precond.newton()`.
      root: a root in place of `precond.inverse_root` with this `damping` and this `method`.
        `precond.roots.averaged_eigenvalues()`, with `refresh=precond.every(10, delay=1, warmup=1)`, is the paper's
        practical form: bases by QR, and eigenvalues that follow every gradient.
      block_size: the longest side of a block; None is 1024.
      views: as in `precond.blocked`.
      otherwise: the transformation of parameters without a view; None is Adam with the same `b1`, `b2` and `eps`.
      precision: the precision of matrix products, as in `precond.scale_by_kronecker`; None is the highest.
      memory: what is kept in bfloat16: `precond.Memory()` keeps momentum, second moments and roots so, and None keeps
        them in float32.
      axis: mesh axes over whose devices blocks, roots and the state are divided, as in `precond.blocked`.
      mesh: as in `precond.blocked`.

    Returns:
      An Optax optimizer. Under `optax.inject_hyperparams` pass `static_args=precond.static_args(precond.kl_shampoo)`.

    Raises:
      ValueError, TypeError: for numbers out of range or of a wrong type; for an `eps` beside `otherwise`, and for a
        `damping` or a `method` beside `root`, which have no effect.

    Reference:
      Lin et al., Understanding and Improving Shampoo and SOAP via Kullback-Leibler Minimization, 2025.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx, params = kl_shampoo(1e-3), {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> params = optax.apply_updates(params, updates)
    """
    tx = scale_by_kl_shampoo(
        b1=b1,
        b2=b2,
        eps=eps,
        damping=damping,
        refresh=refresh,
        magnitude=magnitude,
        method=method,
        root=root,
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

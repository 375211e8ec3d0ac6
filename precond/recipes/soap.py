"""The official SOAP."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.blocks import tensors
from precond.mesh import Sharded
from precond.roots import eigenbasis, qr
from precond.statistics import outer_products
from precond.transforms import blocked, every, scale_by_diagonal, scale_by_kronecker

__all__ = ["official_soap"]


def official_soap(
    learning_rate: float = 3e-3,
    *,
    b1: float = 0.95,
    b2: float = 0.95,
    shampoo_beta: float | None = None,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
    merge: int = 0,
    precondition_1d: bool = False,
    bias_correction: bool = True,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""`nikhilvyas/SOAP`, step by step.

    The first call feeds the statistics alone and moves nothing. From then on, with $s$ the calls after the first,

    $$W \leftarrow (1 - \eta \lambda) \Big(W - \eta \frac{\sqrt{1 - \beta_2^s}}{1 - \beta_1^s} P\Big)$$

    where $P$ is Adam's direction without bias correction, in the eigenbasis as it was before this gradient.

    Args:
      learning_rate: $\eta$.
      b1: of the momentum.
      b2: of the second moment.
      shampoo_beta: of the factors; None takes `b2`.
      eps: added to the root of the (uncorrected) second moment.
      weight_decay: $\lambda$, decoupled, applied after the step.
      precondition_frequency: steps between two QR refreshes.
      max_precond_dim: a longer axis keeps its own basis.
      merge: merge neighbouring axes up to this size; 0 merges none.
      precondition_1d: whether vectors have a factor too; else they get plain Adam.
      bias_correction: off leaves out the ratio above.
      axis: mesh axes over whose devices blocks are divided, as in `precond.blocked`; the reference's trajectory on any.
      mesh: likewise.

    Examples:
      >>> tx, w = official_soap(0.1), jnp.ones((3, 2))
      >>> tx.update(w, tx.init(w), w)[0].any().item()
      False
    """

    def correction(count: ArrayLike) -> jax.Array:
        if not bias_correction:
            return jnp.ones(())
        s = jnp.asarray(count) + 1
        return jnp.sqrt(1 - jnp.asarray(b2) ** s) / (1 - jnp.asarray(b1) ** s)

    def after_first(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
        return optax.conditionally_mask(tx, lambda step, **_: jnp.asarray(step) >= 1)

    direction = scale_by_kronecker(
        outer_products(b2 if shampoo_beta is None else shampoo_beta, bias_correction=False),
        eigenbasis(b2, eps=eps, bias_correction=False, method=qr()),
        momentum=optax.ema(b1, debias=False),
        refresh=every(precondition_frequency, delay=1, warmup=1),
    )
    adam = scale_by_diagonal(b2, eps=eps, momentum=optax.ema(b1, debias=False))
    views = tensors(min_rank=1 if precondition_1d else 2, merge=merge, max_size=max_precond_dim)
    step = optax.chain(
        optax.scale_by_schedule(correction),
        optax.scale(-learning_rate * (1 - learning_rate * weight_decay)),
        optax.add_decayed_weights(-learning_rate * weight_decay),
    )
    return optax.chain(
        blocked(direction, block_size=None, views=views, otherwise=after_first(adam), axis=axis, mesh=mesh),
        after_first(step),
    )

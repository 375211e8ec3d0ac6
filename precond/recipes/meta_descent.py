"""Follow Meta's Distributed Shampoo with a direction that has no factors: sign descent and spectral descent."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from precond.arguments import described
from precond.linalg.lapack import svd
from precond.linalg.products import product
from precond.orthogonal import Orthogonalizer
from precond.recipes.meta_chain import meta_chain

__all__ = ["meta_descent", "meta_svd"]


@described(sign=-1, common=meta_chain)
def meta_descent(
    learning_rate: optax.ScalarOrSchedule = 0.01,
    *,
    direction: optax.GradientTransformation | None = None,
    beta1: float = 0.9,
    bias_correction: bool = True,
    **common: Any,
) -> optax.GradientTransformationExtraArgs:
    """Follow `DistributedShampoo` with a direction that has no factors, step by step.

    Args:
      learning_rate: a number or a schedule.
      direction: a transformation of the blocks of the averaged gradients. `optax.scale_by_sign()` (None) is
        `SignDescentPreconditionerConfig`; `precond.transforms.orthogonalize(..)`, with `recipes.meta_svd()` or
        `precond.orthogonal.newton_schulz()`, is `SpectralDescentPreconditionerConfig`;
        `precond.transforms.scale_by_diagonal(..)` is AdaGrad, RMSprop or Adam. Any of them may be `grafting=` of the
        other recipes, too.
      beta1: the decay of the momentum.
      bias_correction: whether the momentum is freed of the bias of its start.
      **common: as in `meta_shampoo`. Without a graft, `precondition_frequency` and `start_preconditioning_step` say
        nothing.

    Examples:
      >>> tx, w = meta_descent(0.5), jnp.asarray([2.0, -3.0])
      >>> tx.update(w, tx.init(w), w)[0].tolist()
      [-0.5, 0.5]
    """
    tx = optax.scale_by_sign() if direction is None else direction
    return meta_chain(lambda _: tx, learning_rate, beta1=beta1, bias_correction=bias_correction, **common)


@described()
def meta_svd(*, scale_by_nuclear_norm: bool = False) -> Orthogonalizer:
    r"""Orthogonalize matrices as `SVDOrthogonalizationConfig` does, by a singular value decomposition.

    $U S V^\top$ becomes $U V^\top$, however small a singular value is.

    Args:
      scale_by_nuclear_norm: multiply by the sum of the singular values: steepest descent in the spectral norm. The
        number that `precond.metrics` tells as `orthogonal/error` then means nothing.

    Returns:
      A value for `method=` of `precond.transforms.orthogonalize`.

    Examples:
      >>> meta_svd(scale_by_nuclear_norm=True).apply(
      ...     jnp.asarray([[[3.0, 0.0], [0.0, 1.0]]])
      ... ).tolist()
      [[[4.0, 0.0], [0.0, 4.0]]]
    """

    def apply(x: jax.Array) -> jax.Array:
        u, s, vt = svd(x)
        size = jnp.sum(s, axis=1)[:, None, None] if scale_by_nuclear_norm else jnp.where(s[:, :1, None] > 0, 1, 0)
        return product(u, vt) * size.astype(x.dtype)

    return Orthogonalizer("meta_svd()", apply)

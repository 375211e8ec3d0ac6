"""Give an alias its momentum and, if asked, the length of another method's steps."""

import optax

from precond.arguments import check_transformation
from precond.engine import RefreshSchedule, per_block, scale_by_kronecker
from precond.linalg import Precision
from precond.roots import Root
from precond.transforms import graft, with_momentum

__all__ = ["grafted"]


def grafted(
    statistics: optax.GradientTransformation,
    root: Root,
    magnitude: optax.GradientTransformation | None,
    *,
    momentum: optax.GradientTransformation,
    refresh: RefreshSchedule | int,
    precision: Precision | None = None,
    after: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
    """Precondition the momentum of each block, and scale it to the norm of a magnitude, if there is one.

    Args:
      statistics: as in `precond.scale_by_kronecker`.
      root: as in `precond.scale_by_kronecker`.
      magnitude: a transformation of blocks of the momentum, which finds the gradients as
        `precond.BlockInfo.gradients`; None leaves the length of a step as it is.
      momentum: a transformation of single blocks.
      refresh: as in `precond.scale_by_kronecker`.
      precision: as in `precond.scale_by_kronecker`.
      after: follows if there is no magnitude.

    Raises:
      TypeError: for a magnitude that is not a transformation.

    Examples:
      >>> import jax.numpy as jnp, precond
      >>> parts = precond.outer_products(1.0), precond.inverse_root()
      >>> tx = grafted(
      ...     *parts,
      ...     optax.scale_by_sign(),
      ...     momentum=optax.identity(),
      ...     refresh=precond.every(1),
      ... )
      >>> stacks = {"2x2": jnp.full((1, 2, 2), 3.0)}
      >>> # The norm is that of four ones.
      >>> round(float(jnp.linalg.norm(tx.update(stacks, tx.init(stacks))[0]["2x2"])), 4)
      2.0
    """
    if magnitude is None:
        direction = scale_by_kronecker(statistics, root, momentum=momentum, refresh=refresh, precision=precision)
        return direction if after is None else optax.chain(direction, after)
    check_transformation("magnitude", magnitude)
    direction = scale_by_kronecker(statistics, root, refresh=refresh, precision=precision)
    return with_momentum(per_block(momentum), graft(direction, per_block(magnitude)))

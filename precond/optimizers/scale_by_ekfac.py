"""Compute EK-FAC's direction by one transformation of parameters."""

from collections.abc import Callable, Mapping, Sequence

import jax
import optax

from precond.arguments import check_number, described
from precond.blocks import Layer, check_matrices
from precond.engine import RefreshSchedule, as_schedule, every
from precond.layers.use_measured_moments import use_measured_moments
from precond.linalg import Precision
from precond.mesh import Sharded
from precond.optimizers.scale_by_kfac import scale_by_kfac
from precond.roots import Method, Transport, corrected_inverse, decayed_max

__all__ = ["scale_by_ekfac"]


@described(sign=1, explain=True)
def scale_by_ekfac(
    layers: Mapping[str, Layer],
    *,
    b2: jax.typing.ArrayLike = 0.8,
    decay: jax.typing.ArrayLike = 0.95,
    damping: jax.typing.ArrayLike = 1e-3,
    refresh: RefreshSchedule | int = every(10, stagger=True, delay=1, warmup=1),
    method: Method | None = None,
    transport: Transport | None = None,
    around: Callable[[optax.GradientTransformation], optax.GradientTransformation] = lambda direction: direction,
    otherwise: optax.GradientTransformation | None = None,
    skipped: float = 0.0,
    precision: Precision | None = None,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Divide the gradient of each layer by second moments in the eigenbasis of its Kronecker factors.

    $$V = Q_A \frac{Q_A^\top \, \nabla W \, Q_G}{S + \lambda} Q_G^\top$$

    with the letters of `precond.ekfac`. There is no momentum, no bound, no weight decay and no learning rate: put the
    first two around the direction, and end the chain yourself.

    Args:
      layers: the layers of a capture: `capture.layers`.
      b2: as in `precond.ekfac`.
      decay: as in `precond.ekfac`.
      damping: as in `precond.ekfac`.
      refresh: as in `precond.ekfac`.
      method: as in `precond.ekfac`.
      transport: as in `precond.ekfac`.
      around: what is put around the direction, on stacks, as in `precond.scale_by_kfac`.
      otherwise: the transformation of parameters that belong to no layer; None is Adam's.
      skipped: as in `precond.blocked`.
      precision: as in `precond.ekfac`.
      axis: as in `precond.ekfac`.
      mesh: as in `precond.blocked`.

    Returns:
      A transformation. Its `update` needs `factors=`, as that of `precond.ekfac`.

    Raises:
      ValueError, TypeError: as `precond.ekfac`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond import layers
      >>> params = {"kernel": jnp.ones((1, 1))}
      >>> capture = layers.explicit({"": layers.dense(bias=False)}, params)
      >>> factors = {
      ...     "": layers.LayerFactors(*[jnp.full((1, 1, 1), x) for x in (1.0, 1.0, 4.0)])
      ... }
      >>> tx = scale_by_ekfac(capture.layers, damping=0.0)
      >>> state, update = tx.init(params), jax.jit(tx.update)
      >>> for _ in range(2):  # the first moves nothing
      ...     updates, state = update(params, state, factors=factors)
      >>> updates["kernel"].item()  # 1 / 4
      0.25
    """
    check_matrices(layers)
    check_number("b2", b2, 0, 1)
    refresh = as_schedule(refresh, delay=1, warmup=1)
    if not (refresh.delay and refresh.warmup >= refresh.start):
        raise ValueError(
            "refresh= must have delay=1, and a warmup of at least its start (precond.every(10, delay=1, warmup=1)): "
            "second moments are measured in the bases of before the step, and the first refresh makes the first bases."
        )
    return scale_by_kfac(
        layers,
        decay=decay,
        root=corrected_inverse(damping, follow=decayed_max(b2), method=method, transport=transport),
        refresh=refresh,
        around=lambda direction: around(use_measured_moments(direction)),
        otherwise=otherwise,
        skipped=skipped,
        precision=precision,
        axis=axis,
        mesh=mesh,
    )

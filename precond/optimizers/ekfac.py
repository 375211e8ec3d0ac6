"""Run EK-FAC: it keeps the gradients' own second moments in K-FAC's eigenbasis."""

from collections.abc import Mapping, Sequence

import jax
import optax

from precond.arguments import as_direction, check_decay, described
from precond.blocks import Layer
from precond.engine import SKIPPED, RefreshSchedule, every, per_block
from precond.linalg import Precision
from precond.mesh import Sharded
from precond.optimizers.finish import finish
from precond.optimizers.scale_by_ekfac import scale_by_ekfac
from precond.roots import Method, Transport
from precond.transforms import clip_by_kl, with_momentum
from precond.transforms.adam import adam
from precond.trees import Mask

__all__ = ["ekfac"]


@described(sign=-1)
def ekfac(
    learning_rate: optax.ScalarOrSchedule,
    layers: Mapping[str, Layer],
    *,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.8,
    decay: jax.typing.ArrayLike = 0.95,
    damping: jax.typing.ArrayLike = 1e-3,
    bound: optax.ScalarOrSchedule = 1e-3,
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Mask = None,
    refresh: RefreshSchedule | int = every(10, stagger=True, delay=1, warmup=1),
    method: Method | None = None,
    transport: Transport | None = None,
    otherwise: optax.GradientTransformation | None = None,
    precision: Precision | None = None,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Train with EK-FAC: divide each layer's momentum by second moments in the eigenbasis of its Kronecker factors.

    $$S \leftarrow \max\big(\beta_2 S, E[(Q_A^\top a)^2 \otimes (Q_G^\top g)^2]\big), \quad
      V = Q_A \frac{Q_A^\top \hat M \, Q_G}{S + \lambda} Q_G^\top, \quad
      W \leftarrow W - \min\Big(\eta, \sqrt{\tfrac{c}{\langle V, \hat M \rangle}}\Big) V - \eta \gamma W$$

    with $\hat{}$ for bias correction. $Q_A, Q_G$ are the eigenvectors of the averages of the factors that were captured
    with the gradients (`precond.layers`); each is refreshed by one QR decomposition. E is the mean over the squares of
    single examples' gradients in this basis. It is captured with the factors if the bases are given:
    `value_grad_factors(.., fisher=..)(params, x, y, key=key, state=state)`. S follows it at once where it grows
    (`precond.roots.decayed_max`); George et al. average, as `precond.corrected_inverse(follow=precond.roots.ema(0.95))`
    does. The first update only feeds the statistics.

    Args:
      learning_rate: $\eta$, the largest step; a number or an Optax schedule.
      layers: the layers of a capture of the model: `capture.layers`.
      b1: decay of the momentum.
      b2: $\beta_2$, by which second moments fall where less is seen; where more is, they follow at once.
      decay: the decay of the factors.
      damping: $\lambda$, in the units of the Fisher matrix.
      bound: c, as in `precond.kfac`.
      weight_decay: $\gamma$, decoupled, a number or an Optax schedule; None leaves it out, and `params` need not
        be given to `update`.
      mask: which parameters decay, as in `optax.adamw`.
      refresh: `precond.every`, or a number of steps n for `every(n, delay=1, warmup=1)`: all bases at once. By default
        each every 10 steps, in turns.
      method: how bases are refreshed: `precond.qr()` (the default on CPU), `precond.roots.rotations()` or
        `precond.roots.cholesky_qr()`, by which a column continues the one before, as its second moments do. With
        `transport=precond.roots.rotated()` also `precond.eigh()`.
      transport: what becomes of S when a basis is refreshed: `precond.roots.unchanged()` (the default), or
        `precond.roots.rotated()`, by which S is rotated with the basis.
      otherwise: the transformation of parameters that belong to no layer; None is Adam, with the same learning rate.
      precision: the precision of matrix products, as in `precond.scale_by_kronecker`; None is the highest.
      axis: mesh axes over whose devices factors, bases, second moments and momentum are divided, as in
        `precond.scale_by_kfac`. A capture gathers the bases, unless `precond.sharded(axis, roots=axis)` keeps them
        gathered.
      mesh: as in `precond.blocked`.

    Returns:
      An Optax optimizer. Its `update` needs `factors=`, as that of `precond.kfac`, captured with its own `state=`.

    Raises:
      ValueError, TypeError: for numbers out of range or of a wrong type; for layers that are doubly factored; for a
        refresh that changes bases before what was measured in them is used, or that moves in the first step; as
        `precond.scale_by_kfac`.

    Reference:
      George et al., Fast Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis, 2018.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond import layers
      >>> params = {"kernel": jnp.ones((1, 1))}
      >>> capture = layers.explicit({"": layers.dense(bias=False)}, params)
      >>> factors = {
      ...     "": layers.LayerFactors(*[jnp.full((1, 1, 1), x) for x in (1.0, 1.0, 4.0)])
      ... }
      >>> tx = ekfac(1.0, capture.layers, b1=0.0, damping=0.0, bound=float("inf"))
      >>> state, update = tx.init(params), jax.jit(tx.update)
      >>> for _ in range(2):  # the first moves nothing
      ...     updates, state = update(params, state, factors=factors)
      >>> updates["kernel"].item()  # 1 / 4
      -0.25
    """
    check_decay("b1", b1)

    def around(direction: optax.GradientTransformation) -> optax.GradientTransformation:
        return as_direction(with_momentum(per_block(optax.ema(b1)), clip_by_kl(direction, learning_rate, bound)))

    tx = scale_by_ekfac(
        layers,
        b2=b2,
        decay=decay,
        damping=damping,
        refresh=refresh,
        method=method,
        transport=transport,
        around=around,
        otherwise=as_direction(adam(b1, 0.999, None)) if otherwise is None else otherwise,
        skipped=SKIPPED,
        precision=precision,
        axis=axis,
        mesh=mesh,
    )
    return finish(tx, learning_rate, weight_decay, mask)

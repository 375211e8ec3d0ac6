"""Compute K-FAC's direction by one transformation of parameters."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax
from jax.typing import ArrayLike

from precond.arguments import as_direction, called, check_direction, check_idle, described
from precond.blocks import Layer, check_present, views
from precond.engine import RefreshSchedule, blocked, check_skipped, every, scale_by_kronecker
from precond.layers.by_layer import by_layer
from precond.layers.from_probes import from_probes, has_probes
from precond.linalg import Precision
from precond.mesh import Sharded
from precond.roots import Root, inverse
from precond.statistics import activations, balance

__all__ = ["scale_by_kfac"]


@described(sign=1, explain=True)
def scale_by_kfac(
    layers: Mapping[str, Layer] | None = None,
    *,
    damping: ArrayLike = 1e-3,
    decay: ArrayLike = 0.95,
    root: Root | None = None,
    refresh: RefreshSchedule | int = every(10, stagger=True),
    around: Callable[[optax.GradientTransformation], optax.GradientTransformation] = lambda direction: direction,
    otherwise: optax.GradientTransformation | None = None,
    skipped: float = 0.0,
    precision: Precision | None = None,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Multiply the gradient of each layer by the damped inverse of its Kronecker-factored Fisher matrix.

    $$V = (A + \pi \sqrt\lambda I)^{-1} \, \nabla W \, (G + \sqrt\lambda / \pi \, I)^{-1}$$

    with A and G the moving averages of the captured factors and $\pi^2$ the ratio of their mean eigenvalues; for a
    norm, whose only factor is that of a channel's scale and shift, $(A + \lambda I)^{-1} \nabla w$. It is
    `precond.blocked` with `precond.views.layers`, around `precond.by_layer` and `precond.scale_by_kronecker`, with
    `precond.activations`, `precond.balance` and `precond.inverse`. A layer is left out if the parameters have no
    weights of it, as in another group of `optax.partition`; a bias may be missing alone.

    Args:
      layers: the layers of a capture: `capture.layers`. None, for training loops that can pass no `factors=`: as
        `precond.kfac`.
      damping: $\lambda$.
      decay: the decay of the averages of the factors.
      root: a root in place of `precond.inverse(damping)`: `precond.eigen_inverse`.
      refresh: when inverses are refreshed: `precond.every`, or a number of steps. By default each every 10 steps, in
        turns; `every(10, start=11, warmup=10)` burns the statistics in for ten steps that move nothing.
      around: what is put around the direction, on stacks: `lambda direction: precond.transforms.clip_by_kl(direction,
        0.1)`.
      otherwise: the transformation of parameters that belong to no layer; None is Adam's.
      skipped: as in `precond.blocked`.
      precision: the precision of matrix products, as in `precond.scale_by_kronecker`; None is the highest.
      axis: mesh axes over whose devices factors and inverses are divided, as in `precond.blocked`. Factors are
        those of the whole batch, and each device has all of them; gradients may be sharded.
      mesh: as in `precond.blocked`.

    Returns:
      A transformation. Its `update` needs `factors=` where it was given layers.

    Raises:
      ValueError, TypeError: for numbers out of range, and for anything but layers by name; for a `damping` beside
        `root`, which has its own; in `init` where the parameters have leaves but none of these layers, or the bias of
        one without its weights, or probes beside layers that are given; in `update` without `factors`, or for those of
        other layers.

    Reference:
      Martens and Grosse, 2015; Ba, Grosse and Martens, 2017, equation 3.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond import layers
      >>> params = {"kernel": jnp.full((1, 1), 1.0)}
      >>> capture = layers.explicit({"": layers.dense(bias=False)}, params)
      >>> tx = scale_by_kfac(capture.layers, damping=0.0)
      >>> factors = {
      ...     "": layers.LayerFactors(jnp.full((1, 1, 1), 2.0), jnp.full((1, 1, 1), 4.0))
      ... }
      >>> updates, state = tx.update(params, tx.init(params), factors=factors)
      >>> round(updates["kernel"].item(), 4)  # 1 / (2 * 4)
      0.125
    """
    check_skipped(skipped)
    statistics = optax.chain(activations(decay), balance())
    if root is not None:
        check_idle("root=", damping=(damping, 1e-3))
    root = inverse(damping) if root is None else root
    direction = called("around", around, scale_by_kronecker(statistics, root, refresh=refresh, precision=precision))
    alone = around(as_direction(optax.identity()))

    def of_layers(layers: Mapping[str, Layer]) -> optax.GradientTransformationExtraArgs:
        inner, read = by_layer(direction, layers), views.layers(layers)
        tx = blocked(inner, block_size=None, views=read, otherwise=otherwise, skipped=skipped, axis=axis, mesh=mesh)

        def init(params: Any) -> Any:
            if has_probes(params):
                raise ValueError(
                    "The parameters carry probes: leave layers= out, or give them without (capture.detach)."
                )
            check_present(layers, params)
            return tx.init(params)

        return check_direction(
            optax.GradientTransformationExtraArgs(init, tx.update), on_stacks={"around": alone}, otherwise=otherwise
        )

    return from_probes(of_layers) if layers is None else of_layers(layers)

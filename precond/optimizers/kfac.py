"""Run K-FAC with a bound of how far a step moves the model's predictions."""

from collections.abc import Mapping, Sequence

import jax
import optax

from precond.arguments import as_direction, check_decay, described
from precond.blocks import Layer
from precond.engine import SKIPPED, RefreshSchedule, every, per_block
from precond.linalg import Precision
from precond.mesh import Sharded
from precond.optimizers.finish import finish
from precond.optimizers.scale_by_kfac import scale_by_kfac
from precond.roots import Root
from precond.transforms import clip_by_kl, with_momentum
from precond.transforms.adam import adam
from precond.trees import Mask

__all__ = ["kfac"]


@described(sign=-1)
def kfac(
    learning_rate: optax.ScalarOrSchedule,
    layers: Mapping[str, Layer] | None = None,
    *,
    b1: jax.typing.ArrayLike = 0.9,
    decay: jax.typing.ArrayLike = 0.95,
    damping: jax.typing.ArrayLike = 1e-3,
    bound: optax.ScalarOrSchedule = 1e-3,
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Mask = None,
    refresh: RefreshSchedule | int = every(10, stagger=True),
    root: Root | None = None,
    otherwise: optax.GradientTransformation | None = None,
    precision: Precision | None = None,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Train with K-FAC: multiply each layer's momentum by the damped inverse of its Kronecker-factored Fisher matrix.

    $$V = (A + \pi \sqrt\lambda I)^{-1} \hat M \, (G + \sqrt\lambda / \pi \, I)^{-1}, \quad
      W \leftarrow W - \min\Big(\eta, \sqrt{\tfrac{c}{\langle V, \hat M \rangle}}\Big) V - \eta \gamma W$$

    A and G are the averages of the factors that were captured with the gradients (`precond.layers`). $\hat M$ is the
    moving average of the gradients, free of the bias of its start. $\langle V, \hat M \rangle$ is over all layers.

    Args:
      learning_rate: $\eta$, the largest step, which is rarely taken where the bound is reached; a number or an Optax
        schedule.
      layers: the layers of a capture of the model: `capture.layers`. None, for training loops that can pass no
        `factors=` (`TrainState`, `optax.MultiSteps`): layers and factors are those of probes, which the parameters
        carry from `capture.attach(params)` on.
      b1: decay of the momentum.
      decay: the decay of the factors.
      damping: $\lambda$, in the units of the Fisher matrix: the one to tune.
      bound: c, twice the divergence between predictions before and after a step; a number, a schedule, or infinity
        for none (without it, K-FAC is easily lost in its first steps). If usual steps reach it, no later step is larger
        after one very large gradient. Smaller steps then grow up to it.
      weight_decay: $\gamma$, decoupled, a number or an Optax schedule; None leaves it out, and `params` need not
        be given to `update`.
      mask: which parameters decay, as in `optax.adamw`.
      refresh: `precond.every`, or a number of steps (all inverses at once). By default each every 10 steps, in turns.
      root: a root in place of `precond.inverse(damping)`, as `precond.eigen_inverse(1e-3)`; it has its own damping.
      otherwise: the transformation of parameters that belong to no layer; None is Adam, with the same learning rate.
      precision: the precision of matrix products, as in `precond.scale_by_kronecker`; None is the highest.
      axis: mesh axes over whose devices factors, inverses and momentum are divided, as in `precond.scale_by_kfac`.
      mesh: as in `precond.blocked`.

    Returns:
      An Optax optimizer. Where it was given layers, its `update` needs `factors=`: what
      `precond.layers.value_grad_factors` returned with the gradients, or None in a step in which no factors were
      captured.

    Raises:
      ValueError, TypeError: for numbers out of range or of a wrong type; for a `damping` beside `root`, which has its
        own; as `precond.scale_by_kfac`.

    Reference:
      Martens and Grosse, Optimizing Neural Networks with Kronecker-factored Approximate Curvature, 2015; Ba, Grosse and
      Martens, Distributed Second-Order Optimization using Kronecker-Factored Approximations, 2017.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond import layers
      >>> params, x = {"kernel": jnp.ones((4, 2)), "bias": jnp.zeros(2)}, jnp.ones((8, 4))
      >>> capture = layers.explicit({"": layers.dense()}, params)
      >>> f = layers.value_grad_factors(
      ...     lambda params, x: capture.apply(
      ...         "", params, x @ params["kernel"] + params["bias"], x
      ...     ),
      ...     lambda outputs, x: 0.5 * jnp.mean(jnp.sum(outputs**2, -1)),
      ...     capture,
      ...     fisher=layers.sampled(layers.gaussian()),
      ... )
      >>> tx = kfac(1e-2, capture.layers)
      >>> value, grads, factors = f(params, x, key=jax.random.key(0))
      >>> updates, state = tx.update(grads, tx.init(params), params, factors=factors)
      >>> params = optax.apply_updates(params, updates)
    """
    check_decay("b1", b1)

    def around(direction: optax.GradientTransformation) -> optax.GradientTransformation:
        return as_direction(with_momentum(per_block(optax.ema(b1)), clip_by_kl(direction, learning_rate, bound)))

    tx = scale_by_kfac(
        layers,
        damping=damping,
        decay=decay,
        root=root,
        refresh=refresh,
        around=around,
        otherwise=as_direction(adam(b1, 0.999, None)) if otherwise is None else otherwise,
        skipped=SKIPPED,
        precision=precision,
        axis=axis,
        mesh=mesh,
    )
    return finish(tx, learning_rate, weight_decay, mask)

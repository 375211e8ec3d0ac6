"""Meta's PyTorch Distributed Shampoo."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import jax
import optax

from precond.blocks import tensors
from precond.mesh import Sharded
from precond.roots import Root, absolute, eigenbasis, eigh, inverse_root
from precond.statistics import kl, outer_products
from precond.transforms import blocked, every, filtered, graft, scale_by_kronecker

__all__ = ["meta_shampoo", "meta_soap"]

Power = float | Fraction | Callable[[int], float | Fraction]


def _meta(
    root: Root,
    statistics: Callable[..., optax.GradientTransformation],
    learning_rate: float,
    *,
    betas: tuple[float, float] = (0.9, 1.0),
    beta3: float | None = None,
    grafting: optax.GradientTransformation | None = None,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = True,
    max_preconditioner_dim: int = 1024,
    precondition_frequency: int = 1,
    start_preconditioning_step: int | None = None,
    bias_correction: bool = True,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    start = start_preconditioning_step or precondition_frequency
    tx = scale_by_kronecker(
        statistics(betas[1], bias_correction=bias_correction),
        root,
        momentum=filtered(betas[0], beta3, bias_correction=bias_correction) if betas[0] else None,
        refresh=every(precondition_frequency, start=start, phase=0),
    )
    if grafting is not None:
        tx = graft(tx, grafting, start=start, eps=1e-16)
    decay = optax.add_decayed_weights(weight_decay)
    heavy_ball = optax.chain(optax.scale(1 - dampening), optax.trace(momentum, nesterov))
    return optax.chain(
        optax.identity() if decoupled_weight_decay else decay,
        blocked(tx, block_size=max_preconditioner_dim, views=tensors(squeeze=True), axis=axis, mesh=mesh),
        decay if decoupled_weight_decay else optax.identity(),
        heavy_ball if momentum else optax.identity(),
        optax.scale(-learning_rate),
    )


def meta_shampoo(
    learning_rate: float = 0.01,
    *,
    epsilon: float = 1e-12,
    power: Power | None = None,
    kullback_leibler: bool = False,
    **common: Any,
) -> optax.GradientTransformationExtraArgs:
    """`DistributedShampoo` with `RootInvShampooPreconditionerConfig` (or its KL variant), step by step.

    Args:
      learning_rate: of the last step.
      epsilon: added to the factors, absolute.
      power: of the inverse root, or a function from the number of axes to it (`inverse_exponent_override`); None is
        1 / (2 k).
      kullback_leibler: each factor sees the gradient preconditioned on the other axes.
      **common: `betas` (0.9, 1.0), `beta3` (None: `betas[0]`), `grafting` (None, or a transformation that sees blocks
        of raw gradients: `precond.scale_by_diagonal(0.99, eps=1e-8, bias_correction=True,
        momentum=precond.filtered(0.9))` is Adam's), `momentum`, `dampening`, `nesterov`, `weight_decay`,
        `decoupled_weight_decay`, `max_preconditioner_dim`, `precondition_frequency`,
        `start_preconditioning_step` (None: the frequency), `bias_correction`; `axis` and `mesh` as in
        `precond.blocked`.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx, w = meta_shampoo(0.1, betas=(0.0, 1.0)), jnp.eye(2)
      >>> tx.update(w, tx.init(w), w)[0].round(3).tolist()
      [[-0.10000000149011612, -0.0], [-0.0, -0.10000000149011612]]
    """

    def paper_free_kl(decay: float, *, bias_correction: bool) -> optax.GradientTransformation:
        return kl(decay, bias_correction=bias_correction, mean=False)

    root = inverse_root(power=power, method=eigh(), damping=absolute(epsilon), tolerance=math.inf)
    statistics = paper_free_kl if kullback_leibler else outer_products
    return _meta(root, statistics, learning_rate, **common)


def meta_soap(
    learning_rate: float = 0.01,
    *,
    betas: tuple[float, float] = (0.9, 1.0),
    epsilon: float = 1e-12,
    power: float = 0.5,
    bias_correction: bool = True,
    **common: Any,
) -> optax.GradientTransformationExtraArgs:
    """`DistributedShampoo` with `EigenvalueCorrectedShampooPreconditionerConfig` (EShampoo), step by step.

    Args:
      learning_rate: of the last step.
      betas: of the momentum, and of factors and second moment.
      epsilon: added to the root of the second moment.
      power: of the second moment.
      bias_correction: of all averages.
      **common: as in `meta_shampoo`.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx, w = meta_soap(0.1, betas=(0.0, 1.0)), jnp.diag(jnp.asarray([3.0, -2.0]))
      >>> jnp.diag(tx.update(w, tx.init(w), w)[0]).round(2).tolist()
      [-0.09999999403953552, 0.09999999403953552]
    """
    root = eigenbasis(betas[1], eps=epsilon, bias_correction=bias_correction, power=power, method=eigh())
    return _meta(root, outer_products, learning_rate, betas=betas, bias_correction=bias_correction, **common)

"""Meta's PyTorch Distributed Shampoo."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

from precond.arguments import check_number, check_rate, check_whole, described
from precond.blocks import ragged, tensors
from precond.engine import blocked, every, per_block, scale_by_kronecker
from precond.mesh import Sharded
from precond.recipes.meta_roots import meta_eigh
from precond.roots import Method, Power, Root, eigenbasis, eigh
from precond.statistics import kl, outer_products, scale_by_trace
from precond.transforms import graft, lookahead_ema, with_momentum

__all__ = ["meta_shampoo", "meta_soap"]

Override = Power | Callable[[int], Power] | Mapping[int, Power | Mapping[int, Power]] | None


def _meta(
    root: Root,
    statistics: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    *,
    beta1: float,
    bias_correction: bool,
    beta3: float | None = None,
    grafting: optax.GradientTransformation | None = None,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    averaging: optax.GradientTransformation | None = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    decoupled_weight_decay: bool = True,
    max_preconditioner_dim: int | None = 1024,
    target_dimensionality: int | None = None,
    precondition_frequency: int = 1,
    start_preconditioning_step: int | None = None,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    check_rate("learning_rate", learning_rate)
    check_number("betas[0]", beta1, 0, 1)
    if start_preconditioning_step is not None:
        check_whole("start_preconditioning_step", start_preconditioning_step, least=1)
    start = precondition_frequency if start_preconditioning_step is None else start_preconditioning_step
    tx = scale_by_kronecker(statistics, root, refresh=every(precondition_frequency, start=start, phase=0))
    if grafting is not None:
        tx = graft(tx, grafting, start=start, eps=1e-16)
    if beta1:
        tx = with_momentum(per_block(lookahead_ema(beta1, beta3, bias_correction=bias_correction)), tx)
    decay = optax.add_decayed_weights(weight_decay)
    heavy_ball = optax.chain(optax.scale(1 - dampening), optax.trace(momentum, nesterov))
    cut = None if max_preconditioner_dim is None else ragged(max_preconditioner_dim)
    merge = 0 if target_dimensionality is None else max_preconditioner_dim
    views = tensors(squeeze=True, merge=merge, target=target_dimensionality)
    return optax.chain(
        optax.identity() if decoupled_weight_decay else decay,
        blocked(tx, block_size=cut, views=views, axis=axis, mesh=mesh),
        decay if decoupled_weight_decay else optax.identity(),
        heavy_ball if momentum else optax.identity(),
        optax.scale_by_learning_rate(learning_rate),
        optax.identity() if averaging is None else averaging,
    )


def _split(power: Override) -> tuple[Override, Callable[[int], list[int]] | None]:
    """Return the powers that are not 0, and a function to the axes that have one."""
    if not isinstance(power, Mapping):
        return power, None
    given = {k: dict(q) if isinstance(q, Mapping) else dict.fromkeys(range(k), q) for k, q in power.items()}
    kept = {k: {i: q for i, q in by_axis.items() if q != 0} for k, by_axis in given.items()}
    return kept, lambda k: [i for i in range(k) if given.get(k, {}).get(i) != 0]


@described(heading=-1, common=_meta)
def meta_shampoo(
    learning_rate: optax.ScalarOrSchedule = 0.01,
    *,
    betas: tuple[float, float] = (0.9, 1.0),
    epsilon: float = 1e-12,
    power: Override = None,
    root: Callable[..., Root] = meta_eigh,
    kullback_leibler: bool = False,
    trace_scaling: float = 0.0,
    bias_correction: bool = True,
    drop_weighting_factor: bool = False,
    **common: Any,
) -> optax.GradientTransformationExtraArgs:
    r"""Follow `DistributedShampoo` with `RootInvShampooPreconditionerConfig` (or its KL variant), step by step.

    Args:
      learning_rate: a number or a schedule.
      betas: of the momentum (0: none), and of the factors (1: a sum).
      epsilon: added to the factors, absolute.
      power: of the inverse root (`inverse_exponent_override`): a number, a function from the number of axes to it, or a
        mapping from the number of axes to a number or to a mapping from an axis to its own; 0 leaves an axis as it
        is. None stands for 1 / (2 k), and so does every number or axis that is not named.
      root: from `epsilon` and the keyword `power` to a `precond.Root`: `recipes.meta_eigh`, `meta_pseudo_inverse`,
        `meta_newton`, `meta_higher_order`, with their own arguments by `functools.partial`.
      kullback_leibler: each factor sees the gradient preconditioned on the other axes.
      trace_scaling: $\gamma$: factors are multiplied by $\max(\mathrm{tr}, \epsilon)^{-\gamma}$ before the root.
      bias_correction: of momentum and factors.
      drop_weighting_factor: add the outer products to the factors with weight 1, and correct no bias of these.
      **common: `beta3` (None: `betas[0]`), `grafting` (None, or a transformation of the blocks of
        the averaged gradients, with second moments of the raw ones:
        `precond.transforms.scale_by_diagonal(0.99, eps=1e-8, bias_correction=True)` is Adam's), `momentum`,
        `dampening`, `nesterov`, `averaging` (`recipes.primal_averaging()`), `weight_decay` (a number, or a schedule:
        with the learning rate's peak, `lambda t: decay * schedule(t) / peak` is CORRECTED, and `decay / peak`
        INDEPENDENT), `decoupled_weight_decay` (off: L2), `max_preconditioner_dim` (None cuts nothing),
        `target_dimensionality` (neighbouring axes are merged, from the right, up to `max_preconditioner_dim`, until so
        many are left; None merges none), `precondition_frequency`, `start_preconditioning_step` (None: the frequency),
        `axis` and `mesh` (as in `precond.blocked`).

    Examples:
      >>> import jax.numpy as jnp
      >>> tx, w = meta_shampoo(0.1, betas=(0.0, 1.0)), jnp.eye(2)
      >>> tx.update(w, tx.init(w), w)[0].round(3).tolist()
      [[-0.10000000149011612, -0.0], [-0.0, -0.10000000149011612]]
    """
    powers, axes = _split(power)
    weight = 1.0 if drop_weighting_factor else None
    given: dict[str, Any] = {"weight": weight, "bias_correction": bias_correction, "axes": axes}
    statistics = kl(betas[1], mean=False, unit=1.0, **given) if kullback_leibler else outer_products(betas[1], **given)
    if trace_scaling:
        statistics = optax.chain(statistics, scale_by_trace(trace_scaling, eps=epsilon))
    tx_root = root(epsilon, power=powers)
    return _meta(tx_root, statistics, learning_rate, beta1=betas[0], bias_correction=bias_correction, **common)


@described(heading=-1, common=_meta)
def meta_soap(
    learning_rate: optax.ScalarOrSchedule = 0.01,
    *,
    betas: tuple[float, float] = (0.9, 1.0),
    epsilon: float = 1e-12,
    power: float = 0.5,
    method: Method | None = None,
    bias_correction: bool = True,
    drop_weighting_factor: bool = False,
    **common: Any,
) -> optax.GradientTransformationExtraArgs:
    """Follow `DistributedShampoo` with `EigenvalueCorrectedShampooPreconditionerConfig` (EShampoo), step by step.

    Args:
      learning_rate: a number or a schedule.
      betas: of the momentum, and of factors and second moment.
      epsilon: added to the root of the second moment.
      power: of the second moment.
      method: `precond.eigh()` (None), `recipes.meta_qr_basis()` or `recipes.meta_eigh_basis(tolerance)`.
      bias_correction: of all averages.
      drop_weighting_factor: as in `meta_shampoo`; of the second moment, too.
      **common: as in `meta_shampoo`.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx, w = meta_soap(0.1, betas=(0.0, 1.0)), jnp.diag(jnp.asarray([3.0, -2.0]))
      >>> jnp.diag(tx.update(w, tx.init(w), w)[0]).round(2).tolist()
      [-0.09999999403953552, 0.09999999403953552]
    """
    given: dict[str, Any] = {"weight": 1.0 if drop_weighting_factor else None, "bias_correction": bias_correction}
    root = eigenbasis(betas[1], eps=epsilon, power=power, method=eigh() if method is None else method, **given)
    statistics = outer_products(betas[1], **given)
    return _meta(root, statistics, learning_rate, beta1=betas[0], bias_correction=bias_correction, **common)

"""Follow Meta's PyTorch Distributed Shampoo."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optax

from precond.arguments import called, check_betas, check_number, check_whole, described
from precond.engine import scale_by_kronecker
from precond.linalg import Precision
from precond.recipes.meta_bases import ridged
from precond.recipes.meta_chain import meta_chain
from precond.recipes.meta_roots import meta_eigh
from precond.roots import Method, Power, Root, eigenbasis, eigh
from precond.statistics import kl, outer_products, scale_by_trace

__all__ = ["meta_shampoo", "meta_soap"]

Override = Power | Callable[[int], Power] | Mapping[int, Power | Mapping[int, Power]] | None


def _split(power: Override) -> tuple[Override, Callable[[int], list[int]] | None]:
    """Return the powers that are not 0, and a function to the axes that have one."""
    if not isinstance(power, Mapping):
        return power, None
    given = {k: dict(q) if isinstance(q, Mapping) else dict.fromkeys(range(k), q) for k, q in power.items()}
    kept = {k: {i: q for i, q in by_axis.items() if q != 0} for k, by_axis in given.items()}
    return kept, lambda k: [i for i in range(k) if given.get(k, {}).get(i) != 0]


@described(sign=-1, common=meta_chain)
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
    precision: Precision | None = None,
    **common: Any,
) -> optax.GradientTransformationExtraArgs:
    r"""Follow `DistributedShampoo` with `RootInvShampooPreconditionerConfig`, step by step.

    With `root=recipes.meta_eigendecomposed` it is `EigendecomposedShampooPreconditionerConfig`, and with
    `kullback_leibler=True` the KL variant of either.

    Args:
      learning_rate: a number or a schedule.
      betas: the decays of the momentum (0: none), and of the factors (1: a sum).
      epsilon: added to the factors, absolute.
      power: the power of the inverse root (`inverse_exponent_override`): a number, a function from the number of axes
        to it, or a mapping from the number of axes to a number or to a mapping from an axis to its own; 0 leaves an
        axis as it is. None is 1 / (2 k). A number or an axis that is not named has this power, too.
      root: a function from `epsilon` and the keyword `power` to a `precond.Root`: `recipes.meta_eigh`,
        `meta_pseudo_inverse`, `meta_newton`, `meta_higher_order`, `meta_eigendecomposed`, with their own arguments by
        `functools.partial`.
      kullback_leibler: each factor sees the gradient preconditioned on the other axes.
      trace_scaling: $\gamma$: factors are multiplied by $\max(\mathrm{tr}, \epsilon)^{-\gamma}$ before the root.
      bias_correction: whether momentum and factors are freed of the bias of their start.
      drop_weighting_factor: add the outer products to the factors with weight 1, and correct no bias of these.
      precision: the precision of matrix products, as in `precond.scale_by_kronecker`; None is the highest.
      **common: `beta3` (None: `betas[0]`), `grafting` (None, or a transformation of the blocks of
        the averaged gradients, with second moments of the raw ones:
        `precond.transforms.scale_by_diagonal(0.99, eps=1e-8, bias_correction=True)` is Adam's), `momentum`,
        `dampening`, `nesterov`, `averaging` (`recipes.primal_averaging()`, in place of a momentum), `weight_decay` (a
        number, or a schedule: with the learning rate's peak, `lambda t: decay * schedule(t) / peak` is CORRECTED, and
        `decay / peak` INDEPENDENT), `decoupled_weight_decay` (off: L2), `max_preconditioner_dim` (None cuts nothing),
        `target_dimensionality` (neighbouring axes are merged, from the right, up to `max_preconditioner_dim`, until so
        many are left; None merges none), `precondition_frequency`, `start_preconditioning_step` (None: the frequency),
        `axis` and `mesh` (as in `precond.blocked`).

    Examples:
      >>> import jax.numpy as jnp
      >>> tx, w = meta_shampoo(0.1, betas=(0.0, 1.0)), jnp.eye(2)
      >>> tx.update(w, tx.init(w), w)[0].round(3).tolist()
      [[-0.10000000149011612, -0.0], [-0.0, -0.10000000149011612]]
    """
    check_betas(betas)
    check_number("epsilon", epsilon, 0)
    powers, axes = _split(power)
    weight = 1.0 if drop_weighting_factor else None
    given: dict[str, Any] = {"weight": weight, "bias_correction": bias_correction, "axes": axes}
    statistics = kl(betas[1], mean=False, unit=1.0, **given) if kullback_leibler else outer_products(betas[1], **given)
    check_number("trace_scaling", trace_scaling, 0)
    if trace_scaling:
        statistics = optax.chain(statistics, scale_by_trace(trace_scaling, eps=epsilon))
    tx_root = called("root", root, epsilon, power=powers)
    return meta_chain(
        lambda refresh: scale_by_kronecker(statistics, tx_root, refresh=refresh, precision=precision),
        learning_rate,
        beta1=betas[0],
        bias_correction=bias_correction,
        **common,
    )


def _turned_axes(ignored: Mapping[int, Sequence[int]]) -> Callable[[int], list[int]] | None:
    """Return a function from a number of axes to those whose basis is changed."""
    for order, axes in ignored.items():
        check_whole(f"ignored_basis_change_dims[{order}]: its key", order, least=0)
        if wrong := [i for i in axes if not 0 <= i < max(order, 1)]:
            raise ValueError(
                f"ignored_basis_change_dims[{order}]={list(axes)}: a block of {order} axes has no {wrong}."
            )
    return (lambda k: [i for i in range(k) if i not in ignored.get(k, ())]) if ignored else None


@described(sign=-1, common=meta_chain)
def meta_soap(
    learning_rate: optax.ScalarOrSchedule = 0.01,
    *,
    betas: tuple[float, float] = (0.9, 1.0),
    epsilon: float = 1e-12,
    power: float | Mapping[int, float] = 0.5,
    method: Method | None = None,
    after: bool = False,
    ignored_basis_change_dims: Mapping[int, Sequence[int]] | None = None,
    bias_correction: bool = True,
    drop_weighting_factor: bool = False,
    trace_scaling: float = 0.0,
    precision: Precision | None = None,
    **common: Any,
) -> optax.GradientTransformationExtraArgs:
    """Follow `DistributedShampoo` with `EigenvalueCorrectedShampooPreconditionerConfig` (EShampoo), step by step.

    Args:
      learning_rate: a number or a schedule.
      betas: the decays of the momentum, and of factors and second moment.
      epsilon: added to the root of the second moment, and to the factors before their bases are computed.
      power: the power of the second moment, or a mapping from the number of axes to it; 1/2 for a number that is not
        named.
      method: `precond.eigh()` (None), `recipes.meta_qr_basis()` (`DefaultSOAPConfig`) or
        `recipes.meta_eigh_basis(tolerance)`.
      after: add nothing to the factors (`perturb_before_computation` off).
      ignored_basis_change_dims: a mapping from the number of axes of a block to the axes that keep the parameter's own
        basis.
      bias_correction: whether all averages are freed of the bias of their start.
      drop_weighting_factor: as in `meta_shampoo`; of the second moment, too.
      trace_scaling: as in `meta_shampoo`.
      precision: as in `meta_shampoo`.
      **common: as in `meta_shampoo`.

    Raises:
      ValueError, TypeError: for a number out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx, w = meta_soap(0.1, betas=(0.0, 1.0)), jnp.diag(jnp.asarray([3.0, -2.0]))
      >>> jnp.diag(tx.update(w, tx.init(w), w)[0]).round(2).tolist()
      [-0.09999999403953552, 0.09999999403953552]
    """
    check_betas(betas)
    check_number("epsilon", epsilon, 0)
    given: dict[str, Any] = {"weight": 1.0 if drop_weighting_factor else None, "bias_correction": bias_correction}
    method = ridged(eigh() if method is None else method, 0.0 if after else epsilon)
    root = eigenbasis(betas[1], eps=epsilon, power=power, method=method, **given)
    statistics: Any = outer_products(betas[1], axes=_turned_axes(ignored_basis_change_dims or {}), **given)
    check_number("trace_scaling", trace_scaling, 0)
    if trace_scaling:
        statistics = optax.chain(statistics, scale_by_trace(trace_scaling, eps=epsilon))
    return meta_chain(
        lambda refresh: scale_by_kronecker(statistics, root, refresh=refresh, precision=precision),
        learning_rate,
        beta1=betas[0],
        bias_correction=bias_correction,
        **common,
    )

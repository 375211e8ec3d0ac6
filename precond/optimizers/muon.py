"""Run Muon, which orthogonalizes the momentum of every matrix."""

from collections.abc import Sequence
from typing import Any

import jax
import optax

from precond.arguments import (
    as_direction,
    check_decay,
    check_direction,
    check_idle,
    check_number,
    check_rate,
    check_transformation,
    described,
)
from precond.blocks import BlockSize, Views, as_views
from precond.blocks.wide_views import wide_views
from precond.engine import SKIPPED, blocked, per_block, viewed_by
from precond.mesh import Sharded
from precond.optimizers.finish import behind, decayed, finish
from precond.optimizers.memory import Memory, memory_of
from precond.orthogonal import Orthogonalizer, Scale, match_rms
from precond.transforms import nesterov, orthogonalize
from precond.transforms.adam import adam

__all__ = ["muon", "scale_by_muon"]


@described(sign=1, explain=True)
def scale_by_muon(
    *,
    b1: jax.typing.ArrayLike = 0.95,
    adam_b1: jax.typing.ArrayLike = 0.9,
    adam_b2: jax.typing.ArrayLike = 0.95,
    adam_eps: jax.typing.ArrayLike = 1e-15,
    momentum: optax.GradientTransformation | None = None,
    method: Orthogonalizer | None = None,
    scale: Scale | None = None,
    after: optax.GradientTransformation | None = None,
    block_size: BlockSize = None,
    views: Views | Sequence[Any] | None = None,
    otherwise: optax.GradientTransformation | None = None,
    memory: Memory | None = None,
    skipped: float = 0.0,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Do what `precond.muon` does, without weight decay and learning rate.

    Updates go along the gradient: a trainer that ends the chain itself multiplies them by minus its learning rate.

    Args:
      b1: as in `precond.muon`.
      adam_b1: as in `precond.muon`.
      adam_b2: as in `precond.muon`.
      adam_eps: as in `precond.muon`.
      momentum: as in `precond.muon`.
      method: as in `precond.muon`.
      scale: as in `precond.muon`.
      after: as in `precond.muon`.
      block_size: as in `precond.muon`.
      views: as in `precond.muon`.
      otherwise: as in `precond.muon`.
      memory: as in `precond.muon`.
      skipped: as in `precond.blocked`.
      axis: as in `precond.muon`.
      mesh: as in `precond.muon`.

    Returns:
      A transformation of parameters.

    Raises:
      ValueError, TypeError: as `precond.muon`.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx, params = scale_by_muon(), {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
      >>> updates, state = tx.update(params, tx.init(params))
    """
    check_decay("b1", b1)
    check_decay("adam_b1", adam_b1)
    check_decay("adam_b2", adam_b2)
    check_number("adam_eps", adam_eps, 0)
    if momentum is not None:
        check_idle("momentum=", b1=(b1, 0.95))
    if otherwise is not None:
        check_idle("otherwise=", adam_b1=(adam_b1, 0.9), adam_b2=(adam_b2, 0.95), adam_eps=(adam_eps, 1e-15))
    given, momentum = momentum, nesterov(b1) if momentum is None else momentum
    check_transformation("momentum", momentum)
    scale = match_rms(0.2) if scale is None else scale
    parts = [per_block(momentum), orthogonalize(method, scale=scale)]
    if given is None and after is None and scale.symmetric:  # the same for a matrix and its transpose
        views = wide_views(as_views(views))
    if after is not None:
        check_transformation("after", after)
        parts.append(per_block(after))
    kept = memory_of(memory)
    tx = blocked(
        as_direction(kept.of_entries(optax.chain(*parts))),
        block_size=block_size,
        views=views,
        otherwise=as_direction(kept.of_entries(adam(adam_b1, adam_b2, adam_eps))) if otherwise is None else otherwise,
        skipped=skipped,
        axis=axis,
        mesh=mesh,
    )
    return check_direction(tx, on_stacks={"momentum": given, "after": after}, otherwise=otherwise)


@described(sign=-1)
def muon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: jax.typing.ArrayLike = 0.95,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    adam_b1: jax.typing.ArrayLike = 0.9,
    adam_b2: jax.typing.ArrayLike = 0.95,
    adam_eps: jax.typing.ArrayLike = 1e-15,
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Any = None,
    momentum: optax.GradientTransformation | None = None,
    method: Orthogonalizer | None = None,
    scale: Scale | None = None,
    after: optax.GradientTransformation | None = None,
    block_size: BlockSize = None,
    views: Views | Sequence[Any] | None = None,
    otherwise: optax.GradientTransformation | None = None,
    memory: Memory | None = None,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Train with Muon: make all singular values of each matrix's momentum equal, and leave the rest to AdamW.

    $$U = \text{momentum of } G, \quad O \approx (U U^\top)^{-1/2} U, \quad
      W \leftarrow W - \eta \big(0.2 \sqrt{\max(m, n)} \, O + \lambda W\big)$$

    for a matrix of m rows and n columns. Matrices are taken whole. Parameters without a view (vectors, embeddings) get
    Adam's update. With the default scale the learning rate and the weight decay that are good for AdamW are a good
    start. It keeps one number for each entry of a matrix. With the default momentum and scale, and without `after`,
    rows and columns may be exchanged. Then tall matrices are read as their transposes, and share a stack with wide
    ones.

    Args:
      learning_rate: $\eta$; a number or an Optax schedule. It is that of AdamW, unless the scale is another.
      b1: decay of the momentum of matrices.
      adam_learning_rate: the learning rate of parameters without a view; None is the same as for matrices.
      adam_b1: decay of Adam's first moment.
      adam_b2: decay of Adam's second moment.
      adam_eps: the epsilon of Adam's denominator.
      weight_decay: $\lambda$, decoupled, for all parameters, a number or an Optax schedule; None leaves it out, and
        `params` need not be given to `update`.
      mask: which parameters decay, as in `optax.adamw`.
      momentum: a momentum in place of `precond.transforms.nesterov(b1)`, which is Optax's.
        `optax.trace(0.95, nesterov=True)` is the original, and `optax.ema(0.95)` does not look ahead.
      method: `precond.orthogonal.newton_schulz(polynomials)`, by default with Jordan's quintic in five steps,
        `precond.orthogonal.polar()`, or `precond.orthogonal.block_periodic(block_size)`, which takes blocks in most
        steps.
      scale: `precond.orthogonal.match_rms(0.2)` (the default), or `precond.orthogonal.width()`, which is the original,
        for a learning rate such as 0.02.
      after: a transformation of single matrices that follows. `precond.transforms.normalize_neurons()` makes it
        NorMuon.
      block_size: the longest side of a block; None takes every matrix whole.
      views: as in `precond.blocked`. A view may take heads, experts or the parts of a fused kernel as matrices of their
        own.
      otherwise: the transformation of parameters without a view, in place of Adam.
      memory: what is kept in bfloat16: `precond.Memory()` keeps momentum and Adam's second moments so, and None keeps
        them in float32.
      axis: mesh axes over whose devices matrices, momentum and work are divided, as in `precond.blocked`.
      mesh: the mesh, as in `precond.blocked`.

    Returns:
      An Optax optimizer. Under `optax.inject_hyperparams` pass `static_args=precond.static_args(precond.muon)`.

    Raises:
      ValueError, TypeError: for numbers out of range or of a wrong type; for a `b1` beside `momentum`, and for numbers
        of Adam beside `otherwise`, which have no effect; in `update`, for a view of more than two axes.

    Reference:
      Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024; Liu et al., Muon is Scalable for LLM
      Training, 2025.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx, params = muon(1e-3), {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> params = optax.apply_updates(params, updates)
    """
    rest = {"adam_b1": adam_b1, "adam_b2": adam_b2, "adam_eps": adam_eps, "otherwise": otherwise}
    matrices = {"b1": b1, "momentum": momentum, "method": method, "scale": scale, "after": after}
    stacks = {"block_size": block_size, "views": views, "memory": memory, "axis": axis, "mesh": mesh}
    tx = scale_by_muon(**matrices, **rest, **stacks, skipped=SKIPPED)
    if adam_learning_rate is None:
        return finish(tx, learning_rate, weight_decay, mask)
    check_rate("learning_rate", learning_rate)
    check_rate("adam_learning_rate", adam_learning_rate)
    first, second = (optax.scale_by_learning_rate(rate) for rate in (learning_rate, adam_learning_rate))

    def others(tree: Any) -> Any:
        return jax.tree.map(lambda viewed: not viewed, viewed_by(views, tree))

    rates = (optax.masked(first, lambda tree: viewed_by(views, tree)), optax.masked(second, others))
    return behind(tx, optax.chain(decayed(weight_decay, mask), *rates))

"""Follow KL-SOAP of NVIDIA's Emerging-Optimizers."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_betas, check_number, check_rate, described
from precond.blocks import tensors
from precond.engine import blocked, every, scale_by_kronecker
from precond.linalg import Precision, dot_precision, eigen_basis, take_columns
from precond.linalg.lapack import orthonormal_columns
from precond.linalg.products import product
from precond.mesh import Sharded
from precond.roots import Method, Root, RootState, eigenbasis
from precond.roots.methods.tracked_basis import tracked_basis
from precond.statistics import kl

__all__ = ["nvidia_eigh", "nvidia_kl_soap", "nvidia_orthogonal_iteration"]


def _falling(a: jax.Array, basis: jax.Array) -> jax.Array:
    """Sort the columns of a basis by falling Rayleigh quotient."""
    order = jnp.argsort(-jnp.sum(basis * product(a, basis), axis=1), axis=-1)
    return take_columns(basis, order)


@described()
def nvidia_orthogonal_iteration() -> Method:
    r"""Refresh bases as `KlSoapV3` does: by `eigh` the first time, then by a QR decomposition.

    The decomposition is that of $L Q$.

    The columns of every new basis are sorted by falling eigenvalue. Where `precond.qr` keeps the second moment and the
    columns that it belongs to together, nothing here does.

    Examples:
      >>> basis = nvidia_orthogonal_iteration().basis(
      ...     jnp.diag(jnp.asarray([1.0, 2.0]))[None], jnp.eye(2)[None], True
      ... )
      >>> jnp.abs(basis)[0].tolist()
      [[0.0, 1.0], [1.0, 0.0]]
    """
    follow = tracked_basis(lambda a, old: orthonormal_columns(product(a, old)))
    return Method("nvidia_orthogonal_iteration()", None, lambda a, old, first: _falling(a, follow(a, old, first)))


@described()
def nvidia_eigh() -> Method:
    """Refresh bases as `ReklsV3` does: by `eigh` in every step, with columns in the order of falling eigenvalues.

    Examples:
      >>> basis = nvidia_eigh().basis(
      ...     jnp.diag(jnp.asarray([1.0, 2.0]))[None], jnp.eye(2)[None], False
      ... )
      >>> jnp.abs(basis)[0].tolist()
      [[0.0, 1.0], [1.0, 0.0]]
    """
    return Method("nvidia_eigh()", None, lambda a, old, first: _falling(a, eigen_basis(a)))


def _clamped(root: Root, eps: ArrayLike) -> Root:
    """Let a root whiten by eigenvalues of at least `eps`, those of no factor at all included."""

    def whiten(state: RootState, axis: int, factor: jax.Array) -> jax.Array:
        basis = state.derived[axis].matrix
        values = jnp.sum(basis * product(factor, basis), axis=1, keepdims=True)
        scaled = basis * jnp.maximum(values, eps) ** -0.5
        return jnp.einsum("mij,mkj->mik", scaled, basis, precision=dot_precision())

    return root._replace(whiten=whiten)


@described(sign=-1)
def nvidia_kl_soap(
    learning_rate: optax.ScalarOrSchedule,
    *,
    betas: tuple[float, float] = (0.9, 0.95),
    shampoo_beta: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    method: Method | None = None,
    precision: Precision | None = None,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Follow `KlSoapV3`, and `ReklsV3`, step by step.

    In each step the factors of KL-Shampoo are updated with the bases and eigenvalues of the last one, eigenvalues below
    $\epsilon$ being replaced by $\epsilon$. Then one step of orthogonal iteration moves the bases, the momentum is
    taken from the old bases to the new ones, and Adam's rule follows. The second moment stays where it is. All averages
    are free of the bias of their start, and weights decay apart from the step. Theirs refuses a parameter that is not a
    matrix. Here a vector has one factor, and a tensor has one for each axis. Scalars get Adam's update, with the same
    `betas` and `eps`.

    Args:
      learning_rate: a number or a schedule.
      betas: the decays of the momentum and of the second moment.
      shampoo_beta: the decay of the factors.
      eps: added to the root of the second moment, and the least eigenvalue that whitens.
      weight_decay: decoupled, multiplied by the learning rate.
      method: `recipes.nvidia_orthogonal_iteration()` (None), or `recipes.nvidia_eigh()`, which makes it `ReklsV3`.
      precision: the precision of matrix products, as in `precond.scale_by_kronecker`; None is the highest.
      axis: mesh axes over whose devices blocks are divided, as in `precond.blocked`; the trajectory is the same on any.
      mesh: the mesh, as in `precond.blocked`.

    Raises:
      ValueError, TypeError: for a number out of range, or a method of another kind.

    Examples:
      >>> tx, w = nvidia_kl_soap(0.1, weight_decay=0.0), jnp.diag(jnp.asarray([3.0, -2.0]))
      >>> [f"{u:.2f}" for u in jnp.diag(tx.update(w, tx.init(w), w)[0])]
      ['-0.10', '0.10']
    """
    check_rate("learning_rate", learning_rate)
    check_rate("weight_decay", weight_decay)
    check_betas(betas)
    check_number("shampoo_beta", shampoo_beta, 0, 1)
    check_number("eps", eps, 0)
    method = nvidia_orthogonal_iteration() if method is None else method
    tx = scale_by_kronecker(
        kl(shampoo_beta, unit=eps),
        _clamped(eigenbasis(betas[1], eps=eps, method=method), eps),
        momentum=optax.ema(betas[0]),
        refresh=every(1),
        precision=precision,
    )
    adam = optax.scale_by_adam(*betas, eps)
    return optax.chain(
        blocked(tx, block_size=None, views=tensors(), otherwise=adam, axis=axis, mesh=mesh),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )

"""Multiply by KL-Shampoo's root as its paper runs it: average eigenvalues in every step, in a basis that is kept."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_number, check_part, described
from precond.blocks import keep_finite
from precond.linalg import average, multiply
from precond.linalg.align import on_axis
from precond.linalg.divide import divide_or_zero
from precond.linalg.products import product
from precond.roots.damping import Damping, relative
from precond.roots.eigenbasis import eigenbasis
from precond.roots.guard import Checked
from precond.roots.methods import Method
from precond.roots.root import Factor, Root, RootState
from precond.roots.transport import Transport, rotated
from precond.trees import Leaf, wide_dtype

__all__ = ["Eigenvalues", "averaged_eigenvalues"]


class Eigenvalues(NamedTuple):
    """Hold the averaged eigenvalues of the factors.

    Attributes:
      count: the number of steps that each block has averaged, `[N]`.
      values: the eigenvalues of each axis, `[N, d]`, or None for an axis without a factor.
    """

    count: jax.Array
    values: tuple[jax.Array | None, ...]


@described()
def averaged_eigenvalues(
    decay: ArrayLike = 0.95,
    *,
    damping: Damping | None = None,
    method: Method | None = None,
    transport: Transport | None = None,
) -> Root:
    r"""Multiply every axis by the inverse root of its factor, with eigenvalues averaged in every step in a kept basis.

    For a matrix of m rows and n columns, with $G' = Q_L^\top G Q_R$ and the momentum $M' = Q_L^\top \hat M Q_R$,

    $$\lambda_i \leftarrow \beta \lambda_i + \frac{1 - \beta}{n} \sum_j \frac{G_{ij}'^2}{\rho_j}, \quad
      \rho_j \leftarrow \beta \rho_j + \frac{1 - \beta}{m} \sum_i \frac{G_{ij}'^2}{\lambda_i}, \quad
      D = Q_L \frac{M'}{\sqrt{\lambda \rho^\top}} Q_R^\top$$

    where the sums use the eigenvalues from before this step. This is the practical form of KL-Shampoo's paper: a basis
    is refreshed by one QR decomposition now and then, and eigenvalues are averaged with every gradient. In
    `precond.inverse_root` both change only with a refresh. It belongs to `precond.kl`, whose other axes it whitens by
    $Q \lambda^{-1/2} Q^\top$. The averages are free of the bias of their start. The authors' code starts them at 0.1,
    which depends on the scale of the loss.

    Args:
      decay: $\beta$. The default remembers about 20 steps, as `precond.kl_shampoo` does.
      damping: the ridge that is added to the eigenvalues before they divide. None is `precond.relative(1e-4)`,
        whose inverse root lets rounding grow by at most 100.
      method: the method that refreshes bases, as in `precond.eigenbasis`.
      transport: the rule for the eigenvalues when their basis is refreshed: `precond.roots.rotated()` (None), or
        `precond.roots.unchanged()`, as in the paper. The columns of a basis by `precond.eigh` do not continue those
        before, and need the first.

    Returns:
      A `Root`, for `root=` of `precond.kl_shampoo`. Refresh with `precond.every(10, delay=1, warmup=1)`, as the
      authors' code does.

    Raises:
      ValueError, TypeError: for a number out of range, or a part of another kind.

    Reference:
      Lin et al., Understanding and Improving Shampoo and SOAP via Kullback-Leibler Minimization, 2025.

    Examples:
      >>> root, g = averaged_eigenvalues(damping=relative(0.0)), jnp.full((1, 1, 1), -3.0)
      >>> state = root.init(g, (jnp.ones((1, 1, 1)), None))
      >>> root.apply(g, g, state)[0].item()  # the eigenvalue is 9
      -1.0
    """
    check_number("decay", decay, 0, 1, advice="1 sums.")
    damping = relative(1e-4) if damping is None else damping
    check_part("damping", damping, Damping, "precond.relative(1e-4)")
    rule = rotated() if transport is None else transport
    base, move = eigenbasis(method=method, transport=rule), rule.move

    def init(stack: Leaf, factors: tuple[Factor | None, ...]) -> RootState:
        bases, (count, _) = base.init(stack, factors)
        values = [None if f is None else jnp.zeros(f.shape[:2], wide_dtype(stack)) for f in factors]
        return RootState(bases, Eigenvalues(count, tuple(values)))

    def inverse(values: jax.Array) -> jax.Array:
        """Return 1 over the damped eigenvalues `[N, d]`, or zeros before the first step."""
        peak = jnp.max(values, axis=1)
        damped = values + jnp.asarray(damping.ridge(peak, jnp.mean(values, axis=1)))[:, None]
        return divide_or_zero(1.0, damped)

    def apply(direction: jax.Array, gradient: jax.Array, state: RootState) -> tuple[jax.Array, RootState]:
        bases, (count, values) = [None if x is None else x.matrix for x in state.derived], state.moments
        squares = jnp.square(multiply(gradient, bases, transpose=True)).astype(wide_dtype(gradient))
        seen = _seen(squares, [None if x is None else inverse(x) for x in values])
        # The square of a finite gradient can become infinite by whitening. Such a block keeps its eigenvalues.
        good = jnp.all(jnp.stack([jnp.max(x, axis=1) < jnp.inf for x in seen]), axis=0)
        count = jnp.where(good, optax.safe_increment(count), count)

        def one(old: jax.Array, new: jax.Array) -> jax.Array:
            return keep_finite(good, average(old, new, decay, count=jnp.maximum(count, 1)[:, None]), old)

        new = tuple(None if x is None else one(x, y) for x, y in zip(values, seen, strict=True))
        scaled = multiply(direction, bases, transpose=True)
        for axis, x in enumerate(new):
            if x is not None:
                scaled = scaled * on_axis(jnp.sqrt(inverse(x)), axis, scaled.ndim).astype(scaled.dtype)
        return multiply(scaled, bases), RootState(state.derived, Eigenvalues(count, new))

    def whiten(state: RootState, axis: int, factor: jax.Array) -> jax.Array:
        del factor
        basis = state.derived[axis].matrix
        half = jnp.sqrt(inverse(state.moments.values[axis])).astype(basis.dtype)
        return product(basis * half[:, None, :], jnp.swapaxes(basis, 1, 2))

    def move_moments(moments: Eigenvalues, old: Checked, new: Checked, axis: int) -> Eigenvalues:
        before = moments.values[axis]
        assert move is not None
        assert before is not None
        moved = move(before, old.matrix, new.matrix, 0)
        return moments._replace(values=(*moments.values[:axis], moved, *moments.values[axis + 1 :]))

    moving = None if move is None else move_moments
    return Root(init, base.refresh, apply, whiten, base.power, base.padding, moving)


def _seen(squares: jax.Array, inverses: list[jax.Array | None]) -> list[jax.Array]:
    """Return for each axis the mean of the squares over all other axes, each divided by its eigenvalues.

    An axis that has no eigenvalues yet is divided by the root mean square of the gradient, as in `precond.kl`.
    """
    mean = jnp.mean(squares, axis=tuple(range(1, squares.ndim)), keepdims=True)
    unit = jnp.sqrt(divide_or_zero(1.0, mean))
    shares = []
    for axis, x in enumerate(inverses):
        share = None if x is None else on_axis(x, axis, squares.ndim)
        shares.append(
            share if share is None else jnp.where(jnp.any(share > 0, axis=axis + 1, keepdims=True), share, unit)
        )
    found = []
    for axis in range(len(shares)):
        divided = squares
        for other, share in enumerate(shares):
            divided = divided if share is None or other == axis else divided * share
        others = tuple(i for i in range(1, squares.ndim) if i != axis + 1)
        found.append(jnp.mean(divided, axis=others))
    return found

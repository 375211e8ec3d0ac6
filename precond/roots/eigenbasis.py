"""Run SOAP's root: divide by a root of the second moment in the eigenbasis of the factors."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_number, check_part, described, shown
from precond.linalg import average, dot_precision, multiply
from precond.linalg.align import per_row
from precond.linalg.divide import divide_in_bases
from precond.linalg.rounding_floor import rounding_floor
from precond.roots.damping import Damping
from precond.roots.guard import Checked, refresh_basis, unchecked
from precond.roots.methods import Method, by_platform, cholesky_qr, qr, rotations
from precond.roots.padding import BASIS_PADDING
from precond.roots.root import Factor, Power, Root, RootState, TransportOf
from precond.roots.transport import Transport, unchanged
from precond.trees import Leaf, wide_dtype

__all__ = ["SecondMoment", "eigenbasis", "transport_by"]


class SecondMoment(NamedTuple):
    """Hold the second moment in the eigenbasis.

    Attributes:
      count: the number of steps that each block has accumulated, `[N]`.
      nu: the second moment of the gradient in the basis, `[N, d1, .., dk]`.
    """

    count: jax.Array
    nu: jax.Array


@described()
def eigenbasis(
    decay: ArrayLike = 0.99,
    *,
    eps: ArrayLike | None = 1e-8,
    weight: ArrayLike | None = None,
    bias_correction: bool = True,
    power: ArrayLike | Mapping[int, float] = 0.5,
    method: Method | None = None,
    transport: Transport | None = None,
    damping: Damping | None = None,
    least: ArrayLike = 1e-7,
) -> Root:
    r"""Divide by a root of the second moment in the eigenbasis of the factors (SOAP; eigenvalue correction).

    Let $Q_i$ be the eigenvectors of each factor, $G' = G \times_1 Q_1^\top \cdots \times_k Q_k^\top$, and $\odot$ the
    product by element:

    $$V \leftarrow \beta V + w \, G' \odot G', \qquad
      P = \frac{M'}{(V / (1 - \beta^t))^{q} + \epsilon} \times_1 Q_1 \cdots \times_k Q_k$$

    where $M'$ is the momentum in the same basis. The momentum itself is kept in the parameter's own basis. SOAP keeps
    it in the eigenbasis and rotates it at each refresh, which is the same. SOAP does not rotate V: the columns of a
    refreshed basis continue those of the old one (`precond.qr`, `precond.roots.cholesky_qr`,
    `precond.roots.rotations`). With `transport=precond.roots.rotated()` V is rotated with the basis, and columns may be
    in any order (`precond.eigh`).

    Args:
      decay: $\beta$; 1 sums, less than 1 averages. The default remembers about 100 steps.
      eps: $\epsilon$, which is added to the denominator, in the units of the gradient (for q = 1/2). None takes `least`
        times the denominator that belongs to the mean of V over the block, so that the scale of the gradients has no
        effect. An entry whose square is too small for the type is then 0.
      weight: w; None takes $1 - \beta$, or 1 for a sum.
      bias_correction: whether to divide V by $1 - \beta^t$, with t the number of steps.
      power: q, or a mapping from the number of axes of a block to q; 1/2 for a number that is not named.
      method: the method that refreshes bases: `precond.qr()`, `precond.roots.rotations()`,
        `precond.roots.cholesky_qr()` or `precond.eigh()`. None takes the first on CPU, the third on GPUs, where it is a
        hundred times faster, and on TPU `precond.roots.rotations(group=None)`, which takes only matrix products.
      transport: the rule for V when a basis is refreshed: `precond.roots.unchanged()` (the default) or
        `precond.roots.rotated()`.
      damping: the ridge that is added to the eigenvalues of a factor when it whitens another axis for `precond.kl`, as
        in `precond.inverse_root`. None adds nothing, and leaves out directions that are only rounding error.
      least: the relative size of $\epsilon$ if `eps` is None. Beside entries of size 1, rounding turns a zero into
        about 1e-7. If a gradient is projected on a basis made from itself, some entries are only rounding error and
        must not be divided by themselves. Then a larger number is needed.

    Returns:
      A `Root`. Before the first refresh the basis is the parameter's own, and this is Adam's or AdaGrad's rule.

    Raises:
      ValueError, TypeError: for a number out of range, for a `method` of another type, or for one that computes no
        basis.

    Reference:
      Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam, 2024, Algorithm 3; George et al., Fast
      Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis, 2018.

    Examples:
      >>> root, g = eigenbasis(decay=1.0, eps=0.0), jnp.full((1, 1, 1), -3.0)
      >>> state = root.init(g, (jnp.ones((1, 1, 1)), None))
      >>> root.apply(g, g, state)[0].item()
      -1.0
    """
    method = by_platform(qr(), gpu=cholesky_qr(), tpu=rotations(group=None)) if method is None else method
    check_part("method", method, Method, "precond.qr()")
    basis_of = method.basis
    if basis_of is None:
        raise ValueError(f"method={method.name} computes no eigenbasis: use precond.qr() or precond.eigh().")
    check_number("decay", decay, 0, 1, advice="1 sums, less than 1 averages.")
    if eps is not None:
        check_number("eps", eps, 0)
    if isinstance(power, Mapping) and not all(isinstance(k, int) for k in power):
        raise TypeError(f"power={shown(power)}: its keys count the axes of a block, as in {{2: 1/2}}.")
    for k, q in power.items() if isinstance(power, Mapping) else [(None, power)]:
        check_number("power" if k is None else f"power[{k}]", q, 0)
    check_number("least", least, 0)
    if weight is not None:
        check_number("weight", weight, 0)
    transport = unchanged() if transport is None else transport
    check_part("transport", transport, Transport, "precond.roots.rotated()")
    if damping is not None:
        check_part("damping", damping, Damping, "precond.relative(1e-4)")

    debiased = bias_correction and weight is None

    def init(stack: Leaf, factors: tuple[Factor | None, ...]) -> RootState:
        nu = jnp.zeros(stack.shape, wide_dtype(stack))
        bases = tuple(None if f is None else unchecked(f) for f in factors)
        return RootState(bases, SecondMoment(jnp.zeros(stack.shape[:1], jnp.int32), nu))

    def refresh(factors: jax.Array, derived: Checked, power: Power, first: jax.Array) -> Checked:
        del power
        return refresh_basis(basis_of, factors, derived, first)

    def apply(direction: jax.Array, gradient: jax.Array, state: RootState) -> tuple[jax.Array, RootState]:
        derived, (count, nu) = state
        bases = [None if x is None else x.matrix for x in derived]
        projected = multiply(gradient, bases, transpose=True)
        count = jnp.asarray(optax.safe_increment(count))
        steps = per_row(count, nu.ndim)
        nu = average(nu, jnp.square(projected), decay, weight, count=steps if debiased else None)
        mean = jnp.mean(nu, axis=tuple(range(1, nu.ndim)), keepdims=True)
        q = power.get(nu.ndim - 1, 0.5) if isinstance(power, Mapping) else power
        if eps is not None:
            denominator = _raised(nu, q) + eps
        else:
            # Squares near the smallest number of the type are rounded, down to 0, and must not divide their roots.
            floor = 64 * float(jnp.finfo(nu.dtype).tiny)
            denominator = jnp.where(nu > floor, _raised(nu, q) + least * _raised(mean, q), 0)  # 0 divides to 0
        return divide_in_bases(direction, bases, denominator), RootState(derived, SecondMoment(count, nu))

    def whiten(state: RootState, axis: int, factor: jax.Array) -> jax.Array:
        basis = state.derived[axis].matrix
        product = jnp.matmul(factor, basis, precision=dot_precision())
        values = jnp.sum(basis * product, axis=1, keepdims=True)
        peak = jnp.max(values, axis=2, keepdims=True)
        # Directions in which the factor is only rounding error are left out, and all directions of a zero factor.
        smallest = rounding_floor(values.dtype) * peak
        if damping is not None:
            ridge = jnp.asarray(damping.ridge(peak[:, 0, 0], jnp.mean(values, axis=(1, 2))))
            values = jnp.where(peak > 0, jnp.maximum(values, 0) + ridge[:, None, None], 0)
        inverse = jnp.where(values > smallest, values, jnp.inf) ** -0.5
        return jnp.einsum("mij,mkj->mik", basis * inverse, basis, precision=dot_precision())

    padding = BASIS_PADDING if method.keeps_zeros else None
    return Root(init, refresh, apply, whiten, lambda axis: 1.0, padding, transport_by(transport))


def transport_by(rule: Transport) -> TransportOf | None:
    """Make `Root.transport` of a root whose second moments are a `SecondMoment`.

    Args:
      rule: the result of `precond.roots.rotated` or `precond.roots.unchanged`.

    Examples:
      >>> transport_by(unchanged()) is None
      True
    """
    move = rule.move

    def move_moments(moments: SecondMoment, old: Checked, new: Checked, axis: int) -> SecondMoment:
        assert move is not None
        return moments._replace(nu=move(moments.nu, old.matrix, new.matrix, axis))

    return None if move is None else move_moments


def _raised(x: jax.Array, power: jax.typing.ArrayLike) -> jax.Array:
    """Return x to a power, with a derivative of 0 at 0, where a power below 1 has no derivative."""
    return jnp.where(x > 0, jnp.where(x > 0, x, 1) ** power, 0)

"""Compute the eigenbases of Meta's Distributed Shampoo."""

import jax
import jax.numpy as jnp
from jax import lax

from precond.arguments import check_number, check_whole, described
from precond.linalg import eigen_basis, take_columns
from precond.linalg.lapack import orthonormal_columns
from precond.linalg.products import product, symmetric
from precond.recipes.plain_root import shifted
from precond.roots import Method

__all__ = ["meta_eigh_basis", "meta_qr_basis", "ridged"]


def _turned(a: jax.Array, basis: jax.Array) -> jax.Array:
    return symmetric(product(jnp.swapaxes(basis, 1, 2), product(a, basis)))


def _off(b: jax.Array, tolerance: float) -> jax.Array:
    """Return whether more than this share of a matrix is off its diagonal, `[M]`."""
    rest = b * (1 - jnp.eye(b.shape[-1], dtype=b.dtype))
    return jnp.linalg.norm(rest, axis=(1, 2)) > tolerance * jnp.linalg.norm(b, axis=(1, 2))


@described()
def meta_qr_basis(iterations: int = 1, tolerance: float = 0.0) -> Method:
    r"""Compute bases as `QREigendecompositionConfig` does, by the QR algorithm, which starts from the basis before.

    It is for `method=` of `meta_soap` and `meta_eigendecomposed`, which add the ridge to A.

    $B = Q^\top A Q$; then $B = q r$, $B \leftarrow r q$, $Q \leftarrow Q q$ while what is off the diagonal of B is more
    than the tolerance times its norm. Columns are sorted by rising eigenvalue. Where `precond.qr` keeps the second
    moment and the columns that it belongs to together, nothing here does.

    Args:
      iterations: the largest number of iterations.
      tolerance: relative.

    Raises:
      ValueError, TypeError: for a number out of range.

    Examples:
      >>> basis = meta_qr_basis().basis(
      ...     jnp.diag(jnp.asarray([2.0, 1.0]))[None], jnp.eye(2)[None], True
      ... )
      >>> jnp.abs(basis)[0].tolist()
      [[0.0, 1.0], [1.0, 0.0]]
    """
    check_whole("iterations", iterations, least=1)
    check_number("tolerance", tolerance, 0, 1)

    def basis(a: jax.Array, old: jax.Array, first: jax.Array) -> jax.Array:
        del first

        def step(_, carry):
            b, q = carry
            going = _off(b, tolerance)[:, None, None]
            turn = orthonormal_columns(b)
            return jnp.where(going, _turned(b, turn), b), jnp.where(going, product(q, turn), q)

        b, q = lax.fori_loop(0, iterations, step, (_turned(a, old), old))
        order = jnp.argsort(jnp.diagonal(b, axis1=1, axis2=2), axis=1)
        return take_columns(q, order)

    return Method("meta_qr_basis()", None, basis)


@described()
def meta_eigh_basis(tolerance: float = 0.0) -> Method:
    r"""Compute bases as `EighEigendecompositionConfig` does: by `eigh`, where the basis before is not good enough.

    It is for `method=` of `meta_soap` and `meta_eigendecomposed`, which add the ridge to A.

    Args:
      tolerance: the basis stays where what is off the diagonal of $Q^\top A Q$ is at most so much of its norm. The
        numbers are those of the reference, but no time is saved: a step costs the same for all factors, as everywhere
        in this library.

    Raises:
      ValueError, TypeError: for a number out of range.

    Examples:
      >>> meta_eigh_basis(0.1).basis(
      ...     jnp.diag(jnp.asarray([2.0, 1.0]))[None], jnp.eye(2)[None], True
      ... )[0].tolist()
      [[1.0, 0.0], [0.0, 1.0]]
    """
    check_number("tolerance", tolerance, 0, 1)

    def basis(a: jax.Array, old: jax.Array, first: jax.Array) -> jax.Array:
        del first
        if tolerance == 0:
            return eigen_basis(a)
        bad = _off(_turned(a, old), tolerance)
        return jnp.where(bad[:, None, None], eigen_basis(a), old)

    return Method("meta_eigh_basis()", None, basis)


def ridged(method: Method, epsilon: float) -> Method:
    """Give a method for bases `A + epsilon I` in place of A.

    Examples:
      >>> twice = Method("twice", None, lambda a, old, first: 2 * a)
      >>> ridged(twice, 1.0).basis(jnp.ones((1, 1, 1)), jnp.ones((1, 1, 1)), True).item()
      4.0
    """
    basis_of = method.basis
    if epsilon == 0 or basis_of is None:
        return method
    return method._replace(basis=lambda a, old, first: basis_of(shifted(a, epsilon), old, first))

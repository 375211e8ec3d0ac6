"""Second moments of single examples' gradients in a basis: what EK-FAC has in place of products of eigenvalues."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from precond.layers.kinds import Embed, Kind, Signals
from precond.linalg import dot_precision

__all__ = ["second_moments"]


def second_moments(kind: Kind, rows: Signals, weights: jax.Array, bases: Mapping[str, jax.Array]) -> jax.Array:
    r"""The sum over rows of the squares of their gradients, each in the basis, `[r, i, o]`.

    $$S = \sum_{n,t} (Q_A^\top a_{nt})^2 \otimes (Q_G^\top g_{nt})^2 = \sum_{n,t} (Q_A^\top a_{nt} g_{nt}^\top Q_G)^2$$

    for the rows that factors are made of: with `precond.layers.expand` every shared position is one, as if it were an
    example (exact where positions meet in nothing but the sum of their losses, in expectation), and with
    `precond.layers.reduce` every example is one. Never more in memory than the signals themselves; the products cost as
    much as those of the factors.

    Args:
      kind: of the layer.
      rows: what the sharing rule made of the signals; of an embedding the indices and the cotangents.
      weights: of each row, `[n, t]`.
      bases: orthonormal, by columns: `inputs` `[i, i]` (`[r, i, i]` for groups) and `outputs` likewise; what is not
        there is the identity.

    Reference:
      George et al., Fast Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis, 2018, equation 10.

    Examples:
      >>> from precond.layers.kinds import dense
      >>> a, g = jnp.asarray([1.0, 2.0]).reshape(2, 1, 1, 1), jnp.asarray([3.0, 1.0]).reshape(2, 1, 1, 1)
      >>> second_moments(dense(bias=False), Signals(a, g), jnp.ones((2, 1)), {}).item()  # 3^2 + 2^2
      13.0
    """

    def squares(x: jax.Array, name: str) -> jax.Array:
        if name in bases:
            basis = bases[name].reshape(-1, *bases[name].shape[-2:])
            x = jnp.einsum("ntri,rij->ntrj", x, basis.astype(x.dtype), precision=dot_precision())
        return jnp.square(x)

    a, g = rows
    if g is None:
        return jnp.sum(squares(a, "inputs"), axis=(0, 1))[..., None]
    weighted = squares(g, "outputs") * weights[:, :, None, None]
    if isinstance(kind, Embed):
        zeros = jnp.zeros((1, kind.vocabulary, g.shape[-1]), g.dtype)
        return zeros.at[:, a.reshape(-1)].add(weighted.reshape(1, -1, g.shape[-1]))
    return jnp.einsum("ntri,ntro->rio", squares(a, "inputs"), weighted, precision=dot_precision())

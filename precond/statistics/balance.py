"""Scale the factors of a block to one mean eigenvalue, so that equal damping of each is Tikhonov damping."""

import jax
import jax.numpy as jnp
import optax

from precond.arguments import described
from precond.linalg import Factor, trace
from precond.linalg.align import per_row
from precond.trees import Factors

__all__ = ["balance"]


@described()
def balance() -> optax.GradientTransformation:
    r"""Scale the factors of each block to one mean eigenvalue, which leaves their Kronecker product as it is.

    With $n_i = \mathrm{tr}(F_i) / d_i$ and $\bar n$ the geometric mean of the $n_i$ of a block,

    $$F_i \leftarrow \frac{\bar n}{n_i} F_i$$

    Adding $\lambda^{1/k} I$ to each balanced factor equals adding $\pi_i \lambda^{1/k} I$ to each original factor, with
    $\pi_i = n_i / \bar n$. This is factored Tikhonov damping, for any number k of factors. Chain it after a statistic,
    before `precond.inverse`.

    Returns:
      A stateless transformation of factors. If a factor of a block has no positive mean, all factors of this block stay
      as they are.

    Reference:
      Martens and Grosse, 2015, section 6.3; Ba, Grosse and Martens, 2017, equations 10 to 12.

    Examples:
      >>> factors = {"1x1": (jnp.full((1, 1, 1), 8.0), jnp.full((1, 1, 1), 2.0))}
      >>> [f.item() for f in balance().update(factors, optax.EmptyState())[0]["1x1"]]
      [4.0, 4.0]
    """

    def scaled(factors: tuple[Factor | None, ...]) -> tuple[Factor | None, ...]:
        there = [f for f in factors if f is not None]
        means = jnp.stack([trace(f) / f.shape[-1] for f in there])
        logs = jnp.log(jnp.where(means > 0, means, 1))
        ratios = jnp.exp(jnp.mean(logs, axis=0) - logs)
        ratios = iter(jnp.where(jnp.all(means > 0, axis=0), ratios, 1))

        def one(factor: Factor) -> Factor:
            ratio = next(ratios)
            return jax.tree.map(lambda x: x * per_row(ratio, x.ndim), factor)

        return tuple(None if f is None else one(f) for f in factors)

    def update(factors: Factors, params: optax.Params | None = None) -> Factors:
        del params
        return jax.tree.map(scaled, factors, is_leaf=lambda x: type(x) is tuple)

    return optax.stateless(update)

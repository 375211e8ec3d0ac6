"""Measure gradients in the metric of an update that Adam preconditions."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_decay, check_number, check_whole, described
from precond.replicas.replicas import Metric
from precond.trees import Tree, find_nodes

__all__ = ["adam_metric"]


@described()
def adam_metric(state: optax.OptState, *, b2: ArrayLike = 0.999, eps: ArrayLike = 1e-8, start: int = 5) -> Metric:
    r"""Make Adam's metric, by which Adam scales gradients, from the second moments in a state.

    $$P g = g / (\sqrt{\nu / (1 - \beta_2^t)} + \epsilon)$$

    Args:
      state: the optimizer's state before the step; it holds one `optax.ScaleByAdamState`.
      b2: $\beta_2$, Adam's decay.
      eps: Adam's $\epsilon$.
      start: the number of first steps in which the metric is the identity, since the second moments are those of a few
        gradients.

    Returns:
      A map for `metric=` of `precond.replicas.gradients`.

    Raises:
      ValueError: if the state holds no state of Adam, or several.

    Reference:
      Qiao et al., Pollux: Co-adaptive Cluster Scheduling for Goodput-Optimized Deep Learning, 2021, section 3.1 (the
      preconditioned noise scale); `start` is from its implementation, AdaptDL.

    Examples:
      >>> tx, g = optax.adam(1e-3), jnp.asarray([3.0, -4.0])
      >>> state = tx.update(g, tx.init(g))[1]
      >>> [round(x, 4) for x in adam_metric(state, start=1)(g).tolist()]
      [1.0, -1.0]
    """
    check_decay("b2", b2)
    check_number("eps", eps, 0)
    check_whole("start", start, least=0)
    found = find_nodes(state, optax.ScaleByAdamState)
    if len(found) != 1:
        raise ValueError(
            f"adam_metric() found {len(found)} states of optax.scale_by_adam, but needs exactly one: pass the part of "
            f"the state of optax.adam or optax.adamw that holds the one whose metric is meant. Aliases such as "
            f"precond.muon have no such state."
        )
    adam = found[0]
    seen = 1 - jnp.asarray(b2) ** jnp.maximum(adam.count, 1)

    def metric(gradient: Tree) -> Tree:
        def one(g: jax.Array, nu: jax.Array) -> jax.Array:
            return jnp.where(jnp.asarray(adam.count) < start, g, g / (jnp.sqrt(nu / seen) + eps))

        return jax.tree.map(one, gradient, adam.nu)

    return metric

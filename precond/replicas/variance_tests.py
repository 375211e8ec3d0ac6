"""Test whether a batch is large enough for the mean of its gradients to be a good direction."""

import jax
import jax.numpy as jnp

from precond.arguments import described
from precond.replicas.replicas import local_squares, stacked
from precond.trees import Tree, tree_product

__all__ = ["variance_tests"]


@described()
def variance_tests(gradients: Tree) -> dict[str, jax.Array]:
    r"""Return three variances of the mean of some gradients, relative to its squared norm, for adaptive batch sizes.

    With n gradients $g_i$, their mean $\bar g$ and $c_i = \langle g_i, \bar g \rangle / \|\bar g\|^2$,

    $$\text{norm} = \frac{\sum_i \|g_i - \bar g\|^2}{n (n - 1) \|\bar g\|^2}, \quad
      \text{inner product} = \frac{\sum_i (c_i - 1)^2}{n (n - 1)}, \quad
      \text{orthogonality} = \frac{\sum_i \|g_i - c_i \bar g\|^2}{n (n - 1) \|\bar g\|^2}$$

    The first is the sum of the others. A batch passes a test whose number is at most $\theta^2$, for a $\theta$ below 1
    that the user chooses. Where it is more, a batch of `number / theta**2` times the size would pass. The inner-product
    test asks for smaller batches than the norm test: it wants $- \bar g$ to be a direction of descent, however noisy it
    is at right angles to the gradient. The orthogonality test bounds this noise.

    Args:
      gradients: the gradients of the parts of a batch, or of its examples, stacked in every leaf, `[n, ..]`, with n at
        least 2.

    Returns:
      Three numbers: `"norm"`, `"inner_product"` and `"orthogonality"`; infinite where the mean is 0.

    Raises:
      ValueError: for leading axes that differ, or a single gradient.

    Reference:
      Bollapragada, Byrd and Nocedal, Adaptive Sampling Strategies for Stochastic Optimization, 2018; Lau, Liu and
      Kolar, AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods, 2024.

    Examples:
      >>> tests = variance_tests(jnp.asarray([[3.0, 1.0], [1.0, -1.0]]))  # the mean is (2, 0)
      >>> {name: x.item() for name, x in tests.items()}
      {'norm': 0.5, 'inner_product': 0.25, 'orthogonality': 0.25}
    """
    mean, found = stacked(gradients)
    n = jax.tree.leaves(gradients)[0].shape[0]
    if n < 2:
        raise ValueError("variance_tests() got one gradient, which has no variance: stack those of parts of the batch.")
    square = sum(jax.tree.leaves(local_squares(mean)), jnp.zeros([]))
    deviation = sum(jax.tree.leaves(found.deviation), jnp.zeros([]))
    products = jax.vmap(lambda g: tree_product(g, mean))(gradients)
    share = 1 / (n * (n - 1))
    there = jnp.where(square > 0, square, 1)
    norm, inner = share * deviation / there, share * jnp.sum((products / there - 1) ** 2)
    numbers = {"norm": norm, "inner_product": inner, "orthogonality": jnp.maximum(norm - inner, 0)}
    return {name: jnp.where(square > 0, x, jnp.inf) for name, x in numbers.items()}

"""Estimators: which Fisher matrix the factors of a batch belong to, and what it costs."""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from precond.arguments import check_whole, described, made, shown
from precond.layers.likelihoods import Likelihood

__all__ = ["Estimator", "Pull", "empirical", "exact", "sampled"]

Pull = Callable[[jax.Array | None, Any, Callable[[Any], Any]], Any]
"""A function that makes the layers' sums from a key, the outputs, and a function from a cotangent of these to sums."""


class Estimator(NamedTuple):
    """Say which cotangents of the outputs make the factors of one batch.

    Attributes:
      pull: makes the layers' sums. None takes the sums of the loss's own gradient, which cost nothing more (the
        empirical Fisher matrix).
    """

    pull: Pull | None

    def __repr__(self) -> str:
        """Name the function that made it."""
        return made(self)


@described()
def sampled(likelihood: Likelihood, *, samples: int = 1) -> Estimator:
    """Estimate the expected Fisher matrix by targets sampled from the model: a backward pass more for each sample.

    Args:
      likelihood: `categorical()`, `bernoulli()`, `gaussian()`, a `joint(..)` of these, or your own.
      samples: how many targets for each example.

    Returns:
      A value for `fisher=` of `precond.layers.value_grad_factors`, whose function then needs a `key`.

    Raises:
      ValueError, TypeError: if `samples` is below 1 or no integer.

    Reference:
      Martens and Grosse, Optimizing Neural Networks with Kronecker-factored Approximate Curvature, 2015, section 5.

    Examples:
      >>> from precond.layers import categorical
      >>> fisher = sampled(categorical(), samples=2)
    """
    check_whole("samples", samples, least=1)

    def pull(key: jax.Array | None, outputs: Any, back: Callable[[Any], Any]) -> Any:
        if key is None:
            raise ValueError("Sampled targets need a random key: give key= in every step, or use fisher=exact(..).")
        if not hasattr(key, "dtype"):
            raise TypeError(f"key={shown(key)}: must be a random key, such as jax.random.key(0).")

        def one(key: jax.Array) -> Any:
            drawn = likelihood.sample(key, outputs)
            return back(jax.tree.map(lambda g: g * samples**-0.5, drawn))

        if samples == 1:
            return one(key)
        return jax.tree.map(lambda s: jnp.sum(s, 0), jax.lax.map(one, jax.random.split(key, samples)))

    return Estimator(pull)


@described()
def exact(likelihood: Likelihood) -> Estimator:
    """Take the exact Fisher matrix, which is the Gauss-Newton matrix: a backward pass for each output of an example.

    Args:
      likelihood: one that has a `root`.

    Returns:
      A value for `fisher=` of `precond.layers.value_grad_factors`.

    Raises:
      ValueError: if the likelihood has no root.

    Examples:
      >>> from precond.layers import gaussian
      >>> fisher = exact(gaussian())
    """
    root = likelihood.root
    if root is None:
        raise ValueError("exact() needs a likelihood with a root; with a sampler alone, use precond.layers.sampled.")

    def pull(key: jax.Array | None, outputs: Any, back: Callable[[Any], Any]) -> Any:
        del key
        leaves, treedef = jax.tree.flatten(outputs)
        ends = list(itertools.accumulate(math.prod(x.shape[1:]) for x in leaves))

        def one(i: jax.Array) -> Any:
            def column(x: jax.Array, end: int) -> jax.Array:
                size = math.prod(x.shape[1:])
                hot = jax.nn.one_hot(i - (end - size), size, dtype=x.dtype)
                return jnp.broadcast_to(hot.reshape(x.shape[1:]), x.shape)

            return back(root(outputs, treedef.unflatten(map(column, leaves, ends))))

        return jax.tree.map(lambda s: jnp.sum(s, 0), jax.lax.map(one, jnp.arange(ends[-1])))

    return Estimator(pull)


@described()
def empirical() -> Estimator:
    """Take the empirical Fisher matrix, from the loss's own gradients: no further backward pass, and a poorer matrix.

    Reference:
      Kunstner, Balles and Hennig, Limitations of the Empirical Fisher Approximation, 2019.

    Examples:
      >>> fisher = empirical()
    """
    return Estimator(None)

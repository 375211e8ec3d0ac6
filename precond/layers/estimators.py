"""Choose the Fisher matrix that a batch's factors belong to: each choice is an estimator and has its cost."""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from precond.arguments import check_whole, described, made, shown
from precond.layers.likelihoods import Likelihood

__all__ = ["Estimator", "Pull", "empirical", "exact", "propagated", "sampled"]

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
    return Estimator(_mean_of(likelihood.sample, samples, "Sampled targets need"))


def _mean_of(draw: Callable[[jax.Array, Any], Any], samples: int, need: str) -> Pull:
    """Make the mean of the sums that random cotangents make."""

    def pull(key: jax.Array | None, outputs: Any, back: Callable[[Any], Any]) -> Any:
        if key is None:
            raise ValueError(f"{need} a random key: give key= in every step, or use fisher=exact(..).")
        if not hasattr(key, "dtype") or key.ndim != int(not jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
            raise TypeError(f"key={shown(key)}: must be one random key, such as jax.random.key(0).")

        def one(key: jax.Array) -> Any:
            return back(jax.tree.map(lambda g: g * samples**-0.5, draw(key, outputs)))

        if samples == 1:
            return one(key)
        return jax.tree.map(lambda s: jnp.sum(s, 0), jax.lax.map(one, jax.random.split(key, samples)))

    return pull


@described()
def propagated(likelihood: Likelihood, *, samples: int = 1) -> Estimator:
    r"""Estimate the exact Fisher matrix by curvature propagation: a backward pass more for each sample.

    The cotangent of the outputs is $B v$ with random signs v, where $B B^\top$ is the Fisher matrix of the outputs. Its
    mean square is this matrix, as that of the gradient at a sampled target. For squared errors it has less variance
    than that, since each output's own part of the matrix is exact. It is the default of kfac-jax.

    Args:
      likelihood: one that has a `root`.
      samples: how many signs for each output.

    Returns:
      A value for `fisher=` of `precond.layers.value_grad_factors`, whose function then needs a `key`.

    Raises:
      ValueError, TypeError: if the likelihood has no root, or `samples` is not an integer of at least 1.

    Reference:
      Martens, Sutskever and Swersky, Estimating the Hessian by Back-propagating Curvature, 2012.

    Examples:
      >>> from precond.layers import categorical
      >>> fisher = propagated(categorical(), samples=2)
    """
    check_whole("samples", samples, least=1)
    root = _root_of(likelihood, "propagated")

    def draw(key: jax.Array, outputs: Any) -> Any:
        leaves, treedef = jax.tree.flatten(outputs)
        keys = jax.random.split(key, len(leaves))
        signs = [jax.random.rademacher(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
        return root(outputs, treedef.unflatten(signs))

    return Estimator(_mean_of(draw, samples, "Random signs need"))


def _root_of(likelihood: Likelihood, name: str) -> Callable[[Any, Any], Any]:
    if likelihood.root is None:
        raise ValueError(f"{name}() needs a likelihood with a root; with a sampler alone, use precond.layers.sampled.")
    return likelihood.root


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
    root = _root_of(likelihood, "exact")

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

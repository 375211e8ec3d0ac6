"""Which matrix the factors estimate: likelihoods, and estimators of their Fisher matrix."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from precond.arguments import check_number, check_whole, described, made

__all__ = ["Estimator", "Likelihood", "bernoulli", "categorical", "empirical", "exact", "gaussian", "sampled"]


class Likelihood(NamedTuple):
    r"""What the model's outputs are the parameters of.

    Attributes:
      sample: from a key and the outputs to the gradient of $-\log p(y)$ by the outputs, at targets $y$ drawn from
        the model itself. All that `sampled` needs: any sampler of such cotangents will do.
      root: from outputs and an array $v$ of their shape to $B v$, where $B B^\top$ is the Fisher matrix of the
        outputs; linear in v. None where it is not known. For the likelihoods here it is the Hessian of the loss by
        the outputs too, so that the Fisher matrix is the Gauss-Newton matrix.
    """

    sample: Callable[[jax.Array, Any], Any]
    root: Callable[[jax.Array, jax.Array], jax.Array] | None = None

    def __repr__(self) -> str:
        """Name the function that made it."""
        return made(self)


@described()
def categorical() -> Likelihood:
    """Outputs are logits, along their last axis: softmax cross-entropy.

    Examples:
      >>> likelihood, logits = categorical(), jnp.zeros((1, 2))
      >>> (likelihood.root(logits, jnp.asarray([[1.0, 0.0]])) * 8**0.5).round(3).tolist()
      [[1.0, -1.0]]
    """

    def sample(key: jax.Array, logits: jax.Array) -> jax.Array:
        drawn = jax.random.categorical(key, logits)
        return jax.nn.softmax(logits) - jax.nn.one_hot(drawn, logits.shape[-1], dtype=logits.dtype)

    def root(logits: jax.Array, v: jax.Array) -> jax.Array:
        p = jax.nn.softmax(logits)
        half = jnp.sqrt(p)
        return half * v - p * jnp.sum(half * v, axis=-1, keepdims=True)

    return Likelihood(sample, root)


@described()
def bernoulli() -> Likelihood:
    """Outputs are logits, each of a binary target: sigmoid cross-entropy, summed.

    Examples:
      >>> bernoulli().root(jnp.zeros(1), jnp.ones(1)).tolist()
      [0.5]
    """

    def sample(key: jax.Array, logits: jax.Array) -> jax.Array:
        p = jax.nn.sigmoid(logits)
        return p - jax.random.bernoulli(key, p).astype(p.dtype)

    def root(logits: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.sqrt(jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits)) * v

    return Likelihood(sample, root)


@described()
def gaussian(variance: ArrayLike = 1.0) -> Likelihood:
    r"""Outputs are means: the loss is $\|y - f\|^2 / (2 \sigma^2)$, summed over an example's outputs.

    Args:
      variance: $\sigma^2$; 0.5 where the loss has no factor of one half.

    Raises:
      ValueError, TypeError: for a negative number.

    Examples:
      >>> gaussian(4.0).root(jnp.zeros(1), jnp.ones(1)).tolist()
      [0.5]
    """
    check_number("variance", variance, 0)

    def sample(key: jax.Array, means: jax.Array) -> jax.Array:
        noise = jax.random.normal(key, means.shape, means.dtype)
        return noise * jnp.asarray(variance, means.dtype) ** -0.5

    def root(means: jax.Array, v: jax.Array) -> jax.Array:
        return v * jnp.asarray(variance, means.dtype) ** -0.5

    return Likelihood(sample, root)


class Estimator(NamedTuple):
    """How the factors of one batch are made.

    Attributes:
      pull: from a key, the outputs and a function that pulls a cotangent of the outputs back to the layers' sums, to
        the sums. None takes those of the loss's own gradient (the empirical Fisher matrix), which cost nothing more.
    """

    pull: Callable[[jax.Array | None, Any, Callable[[Any], Any]], Any] | None

    def __repr__(self) -> str:
        """Name the function that made it."""
        return made(self)


@described()
def sampled(likelihood: Likelihood, *, samples: int = 1) -> Estimator:
    """The expected Fisher matrix, by targets sampled from the model: one more backward pass for each sample.

    Args:
      likelihood: `categorical()`, `bernoulli()`, `gaussian()`, or your own.
      samples: how many targets for each example.

    Returns:
      A value for `fisher=` of `precond.layers.value_grad_factors`, whose function then needs a `key`.

    Raises:
      ValueError, TypeError: for a number below 1.

    Reference:
      Martens and Grosse, Optimizing Neural Networks with Kronecker-factored Approximate Curvature, 2015, section 5.

    Examples:
      >>> fisher = sampled(categorical(), samples=2)
    """
    check_whole("samples", samples, least=1)

    def pull(key: jax.Array | None, outputs: Any, back: Callable[[Any], Any]) -> Any:
        if key is None:
            raise ValueError("Sampled targets need a random key: give key= in every step, or use fisher=exact(..).")

        def one(key: jax.Array) -> Any:
            drawn = likelihood.sample(key, outputs)
            return back(jax.tree.map(lambda g: g * samples**-0.5, drawn))

        if samples == 1:
            return one(key)
        return jax.tree.map(lambda s: jnp.sum(s, 0), jax.lax.map(one, jax.random.split(key, samples)))

    return Estimator(pull)


@described()
def exact(likelihood: Likelihood) -> Estimator:
    """The exact Fisher matrix, which is the Gauss-Newton matrix: one backward pass for each output of an example.

    Args:
      likelihood: one that has a `root`.

    Returns:
      A value for `fisher=` of `precond.layers.value_grad_factors`.

    Raises:
      ValueError: for a likelihood without a root.

    Examples:
      >>> fisher = exact(gaussian())
    """
    root = likelihood.root
    if root is None:
        raise ValueError("exact() needs a likelihood with a root; with a sampler alone, use precond.layers.sampled.")

    def pull(key: jax.Array | None, outputs: jax.Array, back: Callable[[Any], Any]) -> Any:
        del key
        event = outputs.shape[1:]

        def one(i: jax.Array) -> Any:
            column = jax.nn.one_hot(i, math.prod(event), dtype=outputs.dtype).reshape(event)
            return back(root(outputs, jnp.broadcast_to(column, outputs.shape)))

        return jax.tree.map(lambda s: jnp.sum(s, 0), jax.lax.map(one, jnp.arange(math.prod(event))))

    return Estimator(pull)


@described()
def empirical() -> Estimator:
    """The empirical Fisher matrix: the loss's own gradients. No further backward pass, and no Fisher matrix either.

    Reference:
      Kunstner, Balles and Hennig, Limitations of the Empirical Fisher Approximation, 2019.

    Examples:
      >>> fisher = empirical()
    """
    return Estimator(None)

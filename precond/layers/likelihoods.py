"""Likelihoods: what the outputs of a model are the parameters of."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from precond.arguments import check_number, described, made
from precond.trees import Tree

__all__ = ["Likelihood", "bernoulli", "categorical", "gaussian"]


class Likelihood(NamedTuple):
    r"""Describe the distribution of the targets, whose parameters the model's outputs are.

    The distribution is $p(y)$.

    Attributes:
      sample: from a key and the outputs to the gradient of $-\log p(y)$ by the outputs, at targets $y$ drawn from the
        model itself. `sampled` needs nothing else: any sampler of such cotangents will do.
      root: from outputs and an array $v$ of their shape to $B v$, where $B B^\top$ is the Fisher matrix of the
        outputs; linear in v. None if it is not known. For the likelihoods here $B B^\top$ is also the Hessian of the
        loss by the outputs, so that the Fisher matrix is the Gauss-Newton matrix.
    """

    sample: Callable[[jax.Array, jax.Array], Tree]
    root: Callable[[jax.Array, jax.Array], jax.Array] | None = None

    def __repr__(self) -> str:
        """Name the function that made it."""
        return made(self)


@described()
def categorical() -> Likelihood:
    """Take outputs as logits, along their last axis: softmax cross-entropy.

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
    """Take each output as the logit of a binary target: sigmoid cross-entropy, summed.

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
    r"""Take outputs as means of normal distributions: the loss is a sum of squares.

    The loss is $\|y - f\|^2 / (2 \sigma^2)$, summed over an example's outputs.

    Args:
      variance: $\sigma^2$; 0.5 if the loss has no factor of one half.

    Raises:
      ValueError, TypeError: if the variance is negative or no number.

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

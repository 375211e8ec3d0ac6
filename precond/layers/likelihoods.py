"""Define likelihoods: distributions of the labels whose parameters are the outputs of a model."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from precond.arguments import check_number, described, made, shown
from precond.trees import Tree

__all__ = ["Likelihood", "bernoulli", "categorical", "gaussian", "joint"]


class Likelihood(NamedTuple):
    r"""Describe the distribution of the targets, whose parameters the model's outputs are.

    The distribution is $p(y)$.

    Attributes:
      sample: a function from a key and the outputs, an array or a tree of arrays, to the gradient of $-\log p(y)$ by
        the outputs, at targets $y$ drawn from the model itself. `sampled` needs nothing else: any sampler of such
        cotangents will do.
      root: a function from outputs and a $v$ of their shapes to $B v$, where $B B^\top$ is the Fisher matrix of the
        outputs; linear in v. None if it is not known. For the likelihoods here, but `gaussian(None)`, $B B^\top$ is
        also the Hessian of the loss by the outputs, so that the Fisher matrix is the Gauss-Newton matrix.
    """

    sample: Callable[[jax.Array, Any], Tree]
    root: Callable[[Any, Any], Tree] | None = None

    def __repr__(self) -> str:
        """Name the function that made it."""
        return made(self)


def _check_one(name: str, outputs: object) -> None:
    """Raise for outputs that are a tree, where a likelihood of one array is given."""
    if not hasattr(outputs, "ndim"):
        raise TypeError(
            f"{name} is the likelihood of one array, and the model returns {shown(outputs)}. Give each of several "
            f"outputs its own, precond.layers.joint({name}, ..), and return them as a tuple."
        )


@described()
def categorical() -> Likelihood:
    """Take outputs as logits, along their last axis: softmax cross-entropy.

    Examples:
      >>> likelihood, logits = categorical(), jnp.zeros((1, 2))
      >>> (likelihood.root(logits, jnp.asarray([[1.0, 0.0]])) * 8**0.5).round(3).tolist()
      [[1.0, -1.0]]
    """

    def sample(key: jax.Array, logits: jax.Array) -> jax.Array:
        _check_one("categorical()", logits)
        _check_classes(logits)
        drawn = jax.random.categorical(key, logits)
        return jax.nn.softmax(logits) - jax.nn.one_hot(drawn, logits.shape[-1], dtype=logits.dtype)

    def root(logits: jax.Array, v: jax.Array) -> jax.Array:
        _check_one("categorical()", logits)
        _check_classes(logits)
        p = jax.nn.softmax(logits)
        half = jnp.sqrt(p)
        return half * v - p * jnp.sum(half * v, axis=-1, keepdims=True)

    return Likelihood(sample, root)


def _check_classes(logits: jax.Array) -> None:
    """Raise for a single class: it is certain for every logit, so that all factors would be 0."""
    if logits.shape[-1:] == (1,):
        raise ValueError(
            f"categorical() takes the last axis as that of classes, and outputs of shape {logits.shape} have one. "
            f"Give bernoulli() for logits of binary targets."
        )


@described()
def bernoulli() -> Likelihood:
    """Take each output as the logit of a binary target: sigmoid cross-entropy, summed.

    Examples:
      >>> bernoulli().root(jnp.zeros(1), jnp.ones(1)).tolist()
      [0.5]
    """

    def sample(key: jax.Array, logits: jax.Array) -> jax.Array:
        _check_one("bernoulli()", logits)
        p = jax.nn.sigmoid(logits)
        return p - jax.random.bernoulli(key, p).astype(p.dtype)

    def root(logits: jax.Array, v: jax.Array) -> jax.Array:
        _check_one("bernoulli()", logits)
        return jnp.sqrt(jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits)) * v

    return Likelihood(sample, root)


@described()
def gaussian(variance: ArrayLike | None = 1.0) -> Likelihood:
    r"""Take outputs as means of normal distributions: the loss is a sum of squares.

    The loss is $\|y - f\|^2 / (2 \sigma^2)$, summed over an example's outputs.

    Args:
      variance: $\sigma^2$; 0.5 if the loss has no factor of one half. None for one that is learned: the outputs are
        then a pair of the means and of $\log \sigma$, and the loss has a $\log \sigma$ for each mean. Where
        $\log \sigma$ has the shape of the means, it is an output like them. Where it has no axis of the examples, it
        is a parameter of its own, which belongs to no layer.

    Raises:
      ValueError, TypeError: if the variance is negative or no number; where it is used, for outputs of another form.

    Examples:
      >>> gaussian(4.0).root(jnp.zeros(1), jnp.ones(1)).tolist()
      [0.5]
    """
    if variance is None:
        return Likelihood(_sample_pair, _root_of_pair)
    check_number("variance", variance, 0)
    if isinstance(variance, int | float) and variance == 0:
        raise ValueError("variance=0: must be above 0, for a sure prediction has no finite curvature.")

    def sample(key: jax.Array, means: jax.Array) -> jax.Array:
        _check_one("gaussian()", means)
        noise = jax.random.normal(key, means.shape, means.dtype)
        return noise * jnp.asarray(variance, means.dtype) ** -0.5

    def root(means: jax.Array, v: jax.Array) -> jax.Array:
        _check_one("gaussian()", means)
        return v * jnp.asarray(variance, means.dtype) ** -0.5

    return Likelihood(sample, root)


def _pair(outputs: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array, bool]:
    """Return means, logarithms of standard deviations, and whether these logarithms are outputs for each example."""
    if not isinstance(outputs, tuple | list) or len(outputs) != 2:
        raise TypeError(
            f"gaussian(None) takes a pair of outputs, (means, log_std), and the model returns {shown(outputs)}."
        )
    means, log_std = outputs
    if log_std.shape != means.shape and log_std.shape not in (means.shape[1:], ()):
        raise ValueError(
            f"gaussian(None) has means of shape {means.shape} and log_std of shape {log_std.shape}: give log_std the "
            f"shape of the means, or {means.shape[1:]} for a parameter that all examples share."
        )
    return means, log_std, log_std.shape == means.shape


def _sample_pair(key: jax.Array, outputs: Sequence[jax.Array]) -> Tree:
    means, log_std, each = _pair(outputs)
    noise = jax.random.normal(key, means.shape, means.dtype)
    slopes = (1 - jnp.square(noise)).astype(log_std.dtype) if each else jnp.zeros_like(log_std)
    return jax.tree.structure(outputs).unflatten([noise * jnp.exp(-log_std).astype(means.dtype), slopes])


def _root_of_pair(outputs: Sequence[jax.Array], v: Sequence[jax.Array]) -> Tree:
    means, log_std, each = _pair(outputs)
    slopes = math.sqrt(2) * v[1] if each else jnp.zeros_like(log_std)
    return jax.tree.structure(outputs).unflatten([v[0] * jnp.exp(-log_std).astype(means.dtype), slopes])


@described()
def joint(*likelihoods: Likelihood, weights: Sequence[ArrayLike] | None = None) -> Likelihood:
    r"""Take a tuple of outputs, each with its own likelihood: the loss is a sum of theirs, as of independent targets.

    `joint(categorical(), gaussian(1.0))` is a policy and half the squared error of a value. The Fisher matrix of a loss
    with a factor is that of the loss times the factor.

    Args:
      *likelihoods: one for each entry of the tuple (or list, or NamedTuple) that the model returns.
      weights: the factors before the losses, at least 0; None is 1 for each.

    Returns:
      A likelihood, with a root if all of them have one.

    Raises:
      ValueError, TypeError: where it is used, for outputs of another number or form, and for outputs whose first axes,
        those of the examples, differ.

    Examples:
      >>> likelihood = joint(bernoulli(), gaussian(4.0))
      >>> outputs = (jnp.zeros(1), jnp.zeros(1))
      >>> [x.tolist() for x in likelihood.root(outputs, (jnp.ones(1), jnp.ones(1)))]
      [[0.5], [0.5]]
    """
    if wrong := [x for x in likelihoods if not isinstance(x, Likelihood)]:
        raise TypeError(f"joint() is given {shown(wrong[0])}, where a precond.layers.Likelihood belongs.")
    if not likelihoods:
        raise ValueError("joint() is given no likelihoods: give one for each output of the model.")
    factors = [1.0] * len(likelihoods) if weights is None else list(weights)
    if len(factors) != len(likelihoods):
        raise ValueError(f"weights= has {len(factors)} numbers for {len(likelihoods)} likelihoods: give each its own.")
    for factor in factors:
        check_number("weights", factor, 0)

    def checked(outputs: Sequence[Tree]) -> Sequence[Tree]:
        if not isinstance(outputs, tuple | list) or len(outputs) != len(likelihoods):
            raise TypeError(
                f"joint() has {len(likelihoods)} likelihoods, one for each entry of a tuple, and the model returns "
                f"{shown(outputs)}. Return a tuple of {len(likelihoods)} outputs."
            )
        first = [x.shape[:1] for output in outputs for x in jax.tree.leaves(output)[:1]]
        if len(set(first)) > 1:
            raise ValueError(f"joint() has outputs whose first axes, those of the examples, differ: {first}.")
        return outputs

    def put(outputs: Sequence[Tree], parts: list[Tree]) -> Tree:
        scaled = [
            jax.tree.map(lambda x, c=c: x * jnp.sqrt(jnp.asarray(c, x.dtype)), part)
            for part, c in zip(parts, factors, strict=True)
        ]
        return jax.tree.structure(outputs).unflatten(jax.tree.leaves(scaled))

    def sample(key: jax.Array, outputs: Sequence[Tree]) -> Tree:
        keys = jax.random.split(key, len(likelihoods))
        rows = zip(likelihoods, keys, checked(outputs), strict=True)
        return put(outputs, [likelihood.sample(key, output) for likelihood, key, output in rows])

    roots = [x.root for x in likelihoods if x.root is not None]

    def root(outputs: Sequence[Tree], v: Sequence[Tree]) -> Tree:
        return put(outputs, [one(*row) for one, *row in zip(roots, checked(outputs), v, strict=True)])

    return Likelihood(sample, root if len(roots) == len(likelihoods) else None)

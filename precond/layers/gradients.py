"""Value, gradient and factors of a loss, in one forward pass."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from precond.arguments import described
from precond.layers.bases import bases_of
from precond.layers.capture import Capture
from precond.layers.fisher import Estimator
from precond.layers.tap import vary, varying

__all__ = ["factors_alone", "value_grad_factors"]


@described()
def value_grad_factors(
    forward: Callable[..., Any],
    loss: Callable[..., jax.Array],
    capture: Capture,
    *,
    fisher: Estimator,
    examples: Callable[..., Any] | float | None = None,
    has_aux: bool = False,
) -> Callable[..., tuple[Any, Any, Any]]:
    r"""As `jax.value_and_grad`, with the Kronecker factors of the layers as a third result.

    With a loss $L = \frac1N \sum_n \ell_n$ and $F$ the Fisher matrix of a layer's weights for that loss,

    $$F \approx A \otimes G, \qquad A = E_{n,t}[a a^\top], \qquad G = \frac1N \sum_n \sum_t E[g g^\top]$$

    with a the layer's input (with a one for the bias), t its shared positions and g the gradient of
    $-\log p(y | x_n)$ by its output, in expectation over the targets that `fisher` says. The forward pass is shared:
    the same dropout masks, no second update of batch statistics.

    Where devices share a batch in a `jax.shard_map`, gradients and factors go together: both are those of a device's
    part, to be averaged by `jax.lax.pmean`, or, where parameters are the same on all and the loss is a `pmean`, both
    are those of the whole batch. Under `jax.jit` alone they are always those of the whole batch.

    Args:
      forward: from parameters with probes and the arguments to the outputs (with `has_aux`, and something else):
        for Flax, `lambda params, x, y: capture.apply({"params": params}, x)`.
      loss: from the outputs and the arguments to a scalar, a mean over N.
      capture: of the model.
      fisher: `sampled`, `exact` or `empirical`.
      examples: N, by what the loss divides its sum: a number, or a function of outputs and arguments (for padded
        tokens, their number). None is the length of the outputs' first axis.
      has_aux: whether `forward` returns a pair.

    Returns:
      A function of parameters (without probes), arguments, `key=` and `state=`, that returns the value (with `has_aux`,
      a pair of it and what else there was), the gradient, and the factors by layer: for `factors=` of the optimizer's
      `update`. With `state`, that of `precond.ekfac` before the step, the factors come with second moments in its bases
      (`precond.layers.moments.second_moments`), divided by N.

    Reference:
      Martens and Grosse, 2015; Ba, Grosse and Martens, Distributed Second-Order Optimization using Kronecker-Factored
      Approximations, 2017, equations 1, 2 and 15.

    Examples:
      >>> from precond import layers
      >>> params = {"kernel": jnp.asarray([[1.0], [2.0]])}
      >>> capture = layers.explicit({"": layers.dense(bias=False)}, params)
      >>> forward = lambda params, x: capture.apply("", params, x @ params["kernel"], x)
      >>> loss = lambda outputs, x: 0.5 * jnp.mean(jnp.sum(outputs**2, -1))
      >>> f = value_grad_factors(forward, loss, capture, fisher=layers.exact(layers.gaussian()))
      >>> value, grads, factors = f(params, jnp.asarray([[1.0, 0.0], [0.0, 2.0]]))
      >>> factors[""].inputs.tolist(), factors[""].outputs.tolist()
      ([[[0.5, 0.0], [0.0, 2.0]]], [[[1.0]]])
    """

    def function(params: Any, *args: Any, key: jax.Array | None = None, state: Any = None) -> tuple[Any, Any, Any]:
        outputs, back, aux, mine = _pullback(forward, capture, params, args, has_aux, state)
        value, slope = jax.value_and_grad(lambda o: loss(o, *args))(outputs)
        n = _number(examples, outputs, args, mine)
        if fisher.pull is None:
            grads, sums = back(slope)
            factors = capture.factors(sums, 1 / jnp.asarray(n, jnp.result_type(float)))  # slopes are N times smaller
        else:
            grads = back(slope)[0]
            factors = capture.factors(fisher.pull(key, outputs, lambda g: back(g)[1]), n)
        return ((value, aux) if has_aux else value), grads, jax.lax.stop_gradient(factors)

    return function


@described()
def factors_alone(
    forward: Callable[..., Any],
    capture: Capture,
    *,
    fisher: Estimator,
    examples: Callable[..., Any] | float | None = None,
    has_aux: bool = False,
) -> Callable[..., Any]:
    """The factors of `value_grad_factors`, without value and gradient: of a part of the batch, and now and then.

    An eighth of the batch every few steps is enough for averages, and costs next to nothing. Between these steps,
    `factors=None` is what `update` is given.

    Args:
      forward: as in `value_grad_factors`.
      capture: likewise.
      fisher: `sampled` or `exact`, which need no loss.
      examples: as in `value_grad_factors`.
      has_aux: likewise; what else there is, is dropped.

    Returns:
      A function of parameters (without probes), arguments, `key=` and `state=`, that returns the factors by layer.

    Raises:
      ValueError: for the empirical Fisher matrix, which is made of gradients.

    Reference:
      Martens and Grosse, 2015, section 8: statistics from an eighth of each batch.

    Examples:
      >>> from precond import layers
      >>> params = {"kernel": jnp.asarray([[1.0], [2.0]])}
      >>> capture = layers.explicit({"": layers.dense(bias=False)}, params)
      >>> forward = lambda params, x: capture.apply("", params, x @ params["kernel"], x)
      >>> f = factors_alone(forward, capture, fisher=layers.exact(layers.gaussian()))
      >>> f(params, jnp.asarray([[1.0, 0.0], [0.0, 2.0]]))[""].inputs.tolist()
      [[[0.5, 0.0], [0.0, 2.0]]]
    """
    pull = fisher.pull
    if pull is None:
        raise ValueError("fisher=empirical() takes the loss's own gradients: use precond.layers.value_grad_factors.")

    def function(params: Any, *args: Any, key: jax.Array | None = None, state: Any = None) -> Any:
        outputs, back, _, mine = _pullback(forward, capture, params, args, has_aux, state)
        n = _number(examples, outputs, args, mine)
        return jax.lax.stop_gradient(capture.factors(pull(key, outputs, lambda g: back(g)[1]), n))

    return function


def _pullback(
    forward: Callable[..., Any], capture: Capture, params: Any, args: Any, has_aux: bool, state: Any
) -> tuple[Any, Callable[[Any], Any], Any, frozenset[str]]:
    """Outputs, their pull-back to parameters and probes, what else there is, and over which axes parameters differ."""
    bases = {} if state is None else jax.lax.stop_gradient(bases_of(state, capture.layers, params))

    def run(params: Any, probes: Any) -> tuple[Any, Any]:
        probes = {name: dataclasses.replace(probe, bases=bases.get(name, {})) for name, probe in probes.items()}
        out = forward(capture.attach(params, probes), *args)
        return out if has_aux else (out, None)

    mine = frozenset().union(*map(varying, jax.tree.leaves(params)))
    probes = vary(capture.probes(params, moments=state is not None), mine)
    outputs, back, aux = jax.vjp(run, params, probes, has_aux=True)
    return outputs, back, aux, mine


def _number(examples: Any, outputs: Any, args: Any, mine: frozenset[str]) -> Any:
    """N."""
    if examples is None:
        first = jax.tree.leaves(outputs)[0]
        # In a shard_map, sums are those over devices where the parameters are one and the outputs differ.
        return first.shape[0] * math.prod(jax.lax.axis_size(axis) for axis in varying(first) - mine)
    return examples(outputs, *args) if callable(examples) else examples

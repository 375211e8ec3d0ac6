"""Compute value, gradient and factors of a loss in one forward pass."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from precond.arguments import called, check_number, described, shown
from precond.blocks import LayerFactors, Probe, leaves_of
from precond.layers.bases_of import bases_of
from precond.layers.capture import Capture
from precond.layers.estimators import Estimator
from precond.layers.watch_taps import check_tapped, watch_taps
from precond.trees import Tree, vary, varying

__all__ = ["factors_alone", "value_grad_factors"]

Examples = Callable[..., jax.typing.ArrayLike] | float | None


@described()
def value_grad_factors(
    forward: Callable[..., Any],
    loss: Callable[..., jax.Array],
    capture: Capture,
    *,
    fisher: Estimator,
    examples: Examples = None,
    has_aux: bool = False,
) -> Callable[..., tuple[Any, Any, dict[str, LayerFactors]]]:
    r"""Do as `jax.value_and_grad` does, with the Kronecker factors of the layers as a third result.

    With a loss $L = \frac1N \sum_n \ell_n$ and $F$ the Fisher matrix of a layer's weights for that loss,

    $$F \approx A \otimes G, \qquad A = E_{n,t}[a a^\top], \qquad G = \frac1N \sum_n \sum_t E[g g^\top]$$

    with a the layer's input (with a one for the bias), t its shared positions and g the gradient of
    $-\log p(y | x_n)$ by its output, in expectation over the targets that `fisher` names. All share one forward pass:
    the dropout masks are the same, and batch statistics are updated once.

    If devices share a batch in a `jax.shard_map`, gradients and factors agree in what they sum over. Usually both are
    those of a device's part, and `jax.lax.pmean` averages them. If the parameters are the same on all devices and the
    loss is a `pmean`, both are those of the whole batch. Under `jax.jit` alone they are always those of the whole
    batch.

    Args:
      forward: a function from parameters with probes and the arguments to the outputs (with `has_aux`, to a pair of
        them and anything else): for Flax, `lambda params, x, y: capture.apply({"params": params}, x)`.
      loss: a function from the outputs and the arguments to a scalar, a mean over N.
      capture: the capture of the model.
      fisher: `sampled`, `exact` or `empirical`.
      examples: N, by which the loss divides its sum: a number, or a function of outputs and arguments (for padded
        tokens, their number). None is the length of the outputs' first axis. Where the number turns out to be 0, all
        factors are zero, which change no average.
      has_aux: whether `forward` returns a pair.

    Returns:
      A function of parameters (without probes), arguments, `key=` and `state=`. It returns the value (with `has_aux`,
      a pair of it and the second result of `forward`), the gradient, and the factors by layer: `factors=` of the
      optimizer's `update`. If `state` is that of `precond.ekfac` before the step, the factors hold second moments in
      its bases (`precond.layers.Kind.moments`), divided by N.

    Raises:
      ValueError: when the function is traced, for a batch without examples.

    Reference:
      Martens and Grosse, 2015; Ba, Grosse and Martens, Distributed Second-Order Optimization using Kronecker-Factored
      Approximations, 2017, equations 1, 2 and 15.

    Examples:
      >>> from precond import layers
      >>> params = {"kernel": jnp.asarray([[1.0], [2.0]])}
      >>> capture = layers.explicit({"": layers.dense(bias=False)}, params)
      >>> forward = lambda params, x: capture.apply("", params, x @ params["kernel"], x)
      >>> loss = lambda outputs, x: 0.5 * jnp.mean(jnp.sum(outputs**2, -1))
      >>> f = value_grad_factors(
      ...     forward, loss, capture, fisher=layers.exact(layers.gaussian())
      ... )
      >>> value, grads, factors = f(params, jnp.asarray([[1.0, 0.0], [0.0, 2.0]]))
      >>> factors[""].inputs.tolist(), factors[""].outputs.tolist()
      ([[[0.5, 0.0], [0.0, 2.0]]], [[[1.0]]])
    """

    def function(
        params: Tree, *args: Any, key: jax.Array | None = None, state: optax.OptState | None = None
    ) -> tuple[Any, Any, dict[str, LayerFactors]]:
        outputs, back, aux, mine = _pullback(forward, capture, params, args, has_aux, state)
        value, slope = jax.value_and_grad(lambda o: _one_number(called("loss", loss, o, *args)))(outputs)
        n = _number(examples, outputs, args, mine)
        if fisher.pull is None:
            grads, sums = back(slope)
            each = 1 / jnp.asarray(n, jnp.result_type(float))  # slopes are N times smaller
            factors = _counted(capture.factors(sums, each), n)
        else:
            grads = back(slope)[0]
            factors = _counted(capture.factors(fisher.pull(key, outputs, lambda g: back(g)[1]), n), n)
        return ((value, aux) if has_aux else value), grads, jax.lax.stop_gradient(factors)

    return function


@described()
def factors_alone(
    forward: Callable[..., Any],
    capture: Capture,
    *,
    fisher: Estimator,
    examples: Examples = None,
    has_aux: bool = False,
) -> Callable[..., dict[str, LayerFactors]]:
    """Return the factors of `value_grad_factors` alone: for a part of the batch, in some of the steps.

    An eighth of the batch every few steps is enough for averages, and costs next to nothing. In the steps between,
    give `update` the argument `factors=None`.

    Args:
      forward: as in `value_grad_factors`.
      capture: the capture of the model.
      fisher: `sampled` or `exact`, which need no loss.
      examples: as in `value_grad_factors`.
      has_aux: whether `forward` returns a pair; its second entry is dropped.

    Returns:
      A function of parameters (without probes), arguments, `key=` and `state=`, that returns the factors by layer.

    Raises:
      ValueError: for the empirical Fisher matrix, which needs gradients; when the function is traced, for a batch
        without examples.

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

    def function(
        params: Tree, *args: Any, key: jax.Array | None = None, state: optax.OptState | None = None
    ) -> dict[str, LayerFactors]:
        outputs, back, _, mine = _pullback(forward, capture, params, args, has_aux, state)
        n = _number(examples, outputs, args, mine)
        factors = capture.factors(pull(key, outputs, lambda g: back(g)[1]), n)
        return jax.lax.stop_gradient(_counted(factors, n))

    return function


def _pullback(
    forward: Callable[..., Any],
    capture: Capture,
    params: Tree,
    args: tuple[Any, ...],
    has_aux: bool,
    state: optax.OptState | None,
) -> tuple[Any, Callable[[Tree], tuple[Any, Any]], Any, frozenset[str]]:
    """Return outputs, their pull-back to parameters and probes, the rest, and over which axes parameters differ."""
    _check_params(capture, params)
    bases = {} if state is None else jax.lax.stop_gradient(bases_of(state, capture.layers, params))

    def run(params: Tree, probes: Mapping[str, Probe]) -> tuple[Any, Any]:
        probes = {name: dataclasses.replace(probe, bases=bases.get(name, {})) for name, probe in probes.items()}
        out = called("forward", forward, capture.attach(params, probes), *args)
        if has_aux and not (isinstance(out, tuple | list) and len(out) == 2):
            raise TypeError(
                f"forward= returned {shown(out)}, where has_aux=True takes a pair: the outputs and anything else."
            )
        return (out[0], out[1]) if has_aux else (out, None)

    mine = frozenset[str]().union(*map(varying, jax.tree.leaves(params)))
    zeros: Any = capture.probes(params, moments=state is not None)
    probes = vary(zeros, mine)
    with watch_taps() as watch:
        outputs, back, aux = jax.vjp(run, params, probes, has_aux=True)
    if not jax.tree.leaves(outputs):
        raise ValueError("forward= returned no outputs: it must return the model's, as lambda params, x: .. does.")
    if not any(x.size for x in jax.tree.leaves(outputs)):
        shapes = ", ".join(str(x.shape) for x in jax.tree.leaves(outputs))
        raise ValueError(
            f"The batch is empty: forward= returned outputs of shape {shapes}, and a mean over no examples has neither "
            f"a gradient nor factors. Leave this batch out; shapes are known when the step is traced."
        )
    if silent := {name: layer for name, layer in capture.layers.items() if not watch.called(capture.taps[name])}:
        check_tapped(silent, run, params, probes)
    return outputs, back, aux, mine


def _check_params(capture: Capture, params: Tree) -> None:
    """Raise unless the parameters have those of all layers."""
    leaves = leaves_of(params)
    for layer in capture.layers.values():
        for path in (layer.kernel, layer.bias):
            if path is not None and path not in leaves:
                raise ValueError(
                    f"The first argument has no '{path}', which the capture has factors of: give the parameters alone, "
                    f"those that it was made of, and then the arguments of forward=."
                )


def _one_number(value: Any) -> jax.Array:
    """Return what a loss is, or raise."""
    if not hasattr(value, "shape") or value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        what = f"an array of shape {value.shape} and {value.dtype}" if hasattr(value, "shape") else shown(value)
        raise TypeError(f"loss= returned {what}: it must return one real number, such as a mean over the examples.")
    return value


def _counted(factors: dict[str, LayerFactors], n: jax.typing.ArrayLike) -> dict[str, LayerFactors]:
    """Return factors, or zeros, which count as nothing, if a traced number of examples is 0."""
    return factors if isinstance(n, int) else jax.tree.map(lambda f: jnp.where(jnp.asarray(n) > 0, f, 0), factors)


def _number(examples: Examples, outputs: Tree, args: tuple[Any, ...], mine: frozenset[str]) -> jax.typing.ArrayLike:
    """Return N."""
    if callable(examples):
        number = called("examples", examples, outputs, *args)
        check_number("examples(..)", number, 0)
        return number
    if examples is not None:
        check_number("examples", examples, 1)
        return examples
    first = jax.tree.leaves(outputs)[0]
    if not first.ndim:
        raise ValueError(
            "forward= returned a scalar first, so that no axis numbers the examples. Return the outputs of the "
            "model, of which loss= takes the mean, or say examples=."
        )
    # In a shard_map, sums run over the devices if the parameters are the same on all and the outputs differ.
    return first.shape[0] * math.prod(jax.lax.axis_size(axis) for axis in varying(first) - mine)

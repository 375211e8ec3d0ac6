"""Check whether a layer's signals make its gradient."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from precond.arguments import described
from precond.blocks import Probe, leaves_of
from precond.layers.capture import Capture
from precond.mesh import replicate
from precond.trees import Tree

__all__ = ["gradient_errors"]


@described()
def gradient_errors(capture: Capture, params: Any, run: Callable[[Any], Tree]) -> dict[str, float]:
    r"""Compare each layer's gradient, as its signals have it, with autodiff's.

    The error is $\|\sum a g^\top - \nabla\|_F / \|\nabla\|_F$. It is rounding if the weights act through the tapped
    output alone. It is larger if they are used elsewhere, too (tied), if they are changed before they are used (weight
    norm, masks), or if the layer's rule names the wrong kind. The front ends for Flax check every layer; `explicit`
    does not see the model, so check a model in plain JAX once.

    Args:
      capture: the capture of the model.
      params: arrays.
      run: a function from parameters with probes to the outputs, a tree.

    Returns:
      The relative error by layer.

    Raises:
      ValueError: if there are no floating outputs with an entry.

    Examples:
      >>> from precond import layers
      >>> params, x = {"kernel": jnp.asarray([[1.0], [2.0]])}, jnp.asarray([[3.0, 4.0]])
      >>> capture = layers.explicit({"": layers.dense(bias=False)}, params)
      >>> def model(params):
      ...     return capture.apply("", params, x @ params["kernel"], x) + jnp.sum(
      ...         params["kernel"]
      ...     )  # used twice
      >>> round(gradient_errors(capture, params, model)[""], 2)
      0.22
    """

    def scalar(params: Tree, probes: Mapping[str, Probe]) -> jax.Array:
        outputs = [
            x for x in jax.tree.leaves(run(capture.attach(params, probes))) if jnp.issubdtype(x.dtype, jnp.inexact)
        ]
        if not any(x.size for x in outputs):
            raise ValueError(
                "The example for the capture has outputs without any entry, which say nothing of its layers: give one "
                "with at least one row."
            )
        rng = np.random.default_rng(0)
        return sum((jnp.vdot(jnp.asarray(rng.standard_normal(x.shape), x.dtype), x) for x in outputs), jnp.zeros(()))

    # In a linear model nothing depends on the parameters, but their devices say where to compute.
    @functools.partial(jax.jit, keep_unused=True)
    def errors(params: Tree, probes: Mapping[str, Probe]) -> dict[str, jax.Array]:
        grads, sums = jax.grad(scalar, argnums=(0, 1))(params, probes)
        leaves, out = leaves_of(replicate(grads)), {}
        for name, layer in capture.layers.items():
            true = layer.matrix(leaves[layer.kernel], None if layer.bias is None else leaves[layer.bias])
            own = sums[name].gathered("gradient", sums[name].sums["gradient"])
            difference = true - own.reshape(true.shape)
            size = jnp.linalg.norm(true.ravel())
            out[name] = jnp.linalg.norm(difference.ravel()) / jnp.where(size > 0, size, 1)
        return out

    return {name: float(e) for name, e in errors(params, capture.probes(params, check=True)).items()}

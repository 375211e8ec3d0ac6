"""The self-check: do a layer's signals make its gradient?"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from precond.layers.capture import Capture, leaves_of

__all__ = ["gradient_errors"]


def gradient_errors(capture: Capture, params: Any, run: Callable[[Any], Any]) -> dict[str, float]:
    """How far each layer's gradient, as its signals have it, is from autodiff's: in the Frobenius norm, relative.

    Rounding, where all that the weights do passes through the tap. More, where they are used elsewhere too (tied),
    changed before they are used (weight norm, masks), or the layer is not what its rule says.

    Args:
      capture: of the model.
      params: arrays.
      run: from parameters with probes to the outputs, a tree.

    Returns:
      By layer.
    """

    def scalar(params: Any, probes: Any) -> jax.Array:
        outputs = [
            x for x in jax.tree.leaves(run(capture.attach(params, probes))) if jnp.issubdtype(x.dtype, jnp.inexact)
        ]
        rng = np.random.default_rng(0)
        return sum((jnp.vdot(jnp.asarray(rng.standard_normal(x.shape), x.dtype), x) for x in outputs), jnp.zeros(()))

    @jax.jit
    def errors(params: Any, probes: Any) -> dict[str, jax.Array]:
        grads, sums = jax.grad(scalar, argnums=(0, 1))(params, probes)
        leaves, out = leaves_of(grads), {}
        for name, layer in capture.layers.items():
            true = layer.matrix(leaves[layer.kernel], None if layer.bias is None else leaves[layer.bias])
            difference = true - sums[name]["gradient"].reshape(true.shape)
            size = jnp.linalg.norm(true.ravel())
            out[name] = jnp.linalg.norm(difference.ravel()) / jnp.where(size > 0, size, 1)
        return out

    return {name: float(e) for name, e in errors(params, capture.probes(params, check=True)).items()}

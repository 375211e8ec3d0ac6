"""The self-check: do a layer's signals make its gradient? A capture keeps the layers of which they do."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from precond.arguments import described
from precond.layers.capture import Capture, Found, assemble
from precond.layers.coverage import Leave, check_covered, check_patterns
from precond.layers.nested import leaves_of
from precond.mesh import replicate

__all__ = ["gradient_errors", "of_believed"]


@described()
def gradient_errors(capture: Capture, params: Any, run: Callable[[Any], Any]) -> dict[str, float]:
    """How far each layer's gradient, as its signals have it, is from autodiff's: in the Frobenius norm, relative.

    Rounding, where all that the weights do passes through the tap. More, where they are used elsewhere too (tied),
    changed before they are used (weight norm, masks), or the layer is not what its rule says. The front ends for Flax
    look at it; a model in plain JAX should be looked at once, as `explicit` does not see it.

    Args:
      capture: of the model.
      params: arrays.
      run: from parameters with probes to the outputs, a tree.

    Returns:
      By layer.

    Examples:
      >>> from precond import layers
      >>> params, x = {"kernel": jnp.asarray([[1.0], [2.0]])}, jnp.asarray([[3.0, 4.0]])
      >>> capture = layers.explicit({"": layers.dense(bias=False)}, params)
      >>> def model(params):
      ...     return capture.apply("", params, x @ params["kernel"], x) + jnp.sum(params["kernel"])  # used twice
      >>> round(gradient_errors(capture, params, model)[""], 2)
      0.22
    """

    def scalar(params: Any, probes: Any) -> jax.Array:
        outputs = [
            x for x in jax.tree.leaves(run(capture.attach(params, probes))) if jnp.issubdtype(x.dtype, jnp.inexact)
        ]
        rng = np.random.default_rng(0)
        return sum((jnp.vdot(jnp.asarray(rng.standard_normal(x.shape), x.dtype), x) for x in outputs), jnp.zeros(()))

    # Of a linear model nothing depends on the parameters, but where they are tells where to compute.
    @functools.partial(jax.jit, keep_unused=True)
    def errors(params: Any, probes: Any) -> dict[str, jax.Array]:
        grads, sums = jax.grad(scalar, argnums=(0, 1))(params, probes)
        leaves, out = leaves_of(replicate(grads)), {}
        for name, layer in capture.layers.items():
            true = layer.matrix(leaves[layer.kernel], None if layer.bias is None else leaves[layer.bias])
            difference = true - sums[name].sums["gradient"].reshape(true.shape)
            size = jnp.linalg.norm(true.ravel())
            out[name] = jnp.linalg.norm(difference.ravel()) / jnp.where(size > 0, size, 1)
        return out

    return {name: float(e) for name, e in errors(params, capture.probes(params, check=True)).items()}


def of_believed(
    found: Mapping[str, Found],
    reasons: Mapping[str, str],
    params: Any,
    bind: Callable[..., Any],
    run: Callable[[Capture, Any], Any],
    *,
    tolerance: float | None,
    leave: Leave,
    **kwargs: Any,
) -> Capture:
    """A capture of the layers found that pass the self-check.

    Args:
      found: as in `precond.layers.capture.assemble`.
      reasons: likewise.
      params: likewise.
      bind: likewise.
      run: from a capture and parameters with probes to the outputs.
      tolerance: a layer whose error is larger is left out, with it for a reason; None does not check.
      leave: as in `precond.layers.coverage.check_covered`, which has the last word.
      **kwargs: as in `precond.layers.capture.assemble`.
    """
    check_patterns("leave", leave, leaves_of(params))
    made = assemble(found, reasons, params, bind, **kwargs)
    if tolerance is not None and made.layers:
        errors = gradient_errors(made, params, lambda params: run(made, params))
        lost = {
            path: f"its signals miss {error:.0%} of its gradient (weights tied, changed, or masked?)"
            for path, error in errors.items()
            if not error <= tolerance
        }
        kept = {path: layer for path, layer in found.items() if path not in lost}
        made = assemble(kept, {**reasons, **lost}, params, bind, **kwargs)
    check_covered(made.coverage, leave)
    return made

"""Read the factors of layers from gradients by probes among the parameters, in loops that pass gradients alone."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from precond.arguments import described
from precond.blocks import Layer, LayerFactors, Probe, path_name, refuse_foreign, with_zero_probes, without_probes
from precond.compiled_if_eager import compiled_if_eager
from precond.transformation import transformation
from precond.trees import Tree

__all__ = ["from_probes", "has_probes"]


@described()
def from_probes(
    make: Callable[[Mapping[str, Layer]], optax.GradientTransformation],
) -> optax.GradientTransformationExtraArgs:
    r"""Give a transformation its layers and its factors from probes among the parameters and among their gradients.

    With N examples and a loss that is their mean, the gradient of a probe is $\sum a a^\top$, $\sum g g^\top / N^2$ and
    N itself. So the factors are those of the empirical Fisher matrix. Averages over equal parts of a batch
    (`optax.MultiSteps`, devices) give the same. Probes get updates of zero, and stay zero.

    Probes say that they saw no examples if the gradient was not made with the tapped model. Then the step is skipped
    like one whose gradient is not finite, and `precond.metrics` counts it.

    Args:
      make: a function from layers by path to a transformation that needs `factors=`. Neither its state nor what it is
        given has probes in it.

    Returns:
      A transformation of parameters that carry probes: `precond.layers.Capture.attach`,
      `precond.layers.nnx.attached`.

    Raises:
      ValueError: in `init` for parameters without probes; where a part of a probe is masked away; in `update` for
        factors of the same layers that come as an argument, too.

    Examples:
      >>> from precond import layers, scale_by_kfac
      >>> params, x = {"kernel": jnp.ones((1, 1))}, jnp.asarray([[1.0], [3.0]])
      >>> capture = layers.explicit({"": layers.dense(bias=False)}, params)
      >>> def loss(params):
      ...     y = capture.apply("", params, x @ params["kernel"], x)
      ...     return jnp.mean(capture.counted(params, y))
      >>> tx = from_probes(lambda found: scale_by_kfac(found, damping=0.0))
      >>> params = capture.attach(params)
      >>> updates, state = tx.update(jax.grad(loss)(params), tx.init(params))
      >>> # The gradient is 2, A is (1 + 9) / 2, and G is 1.
      >>> round(updates["kernel"].item(), 6)
      0.4
    """

    def init(params: optax.Params) -> optax.OptState:
        probes = _probes(params)
        if not probes and jax.tree.leaves(params):
            raise ValueError(
                "layers= is not given, and no parameter has a probe to tell the layers from. Give the layers of a "
                "capture (layers=capture.layers), or parameters that carry probes (capture.attach(params))."
            )
        return make(_layers(probes)).init(without_probes(params))

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        probes, gradients = _probes(updates), without_probes(updates)
        _check_given(extra.pop("factors", None), probes)
        inner = optax.with_extra_args_support(make(_layers(probes)))
        seen = [jnp.all(probe.sums["examples"] > 0) for probe in probes.values()]
        if seen:
            good = jnp.all(jnp.stack(seen))
            gradients = jax.tree.map(lambda g: jnp.where(good, g, jnp.full_like(g, jnp.nan)), gradients)
        mine = None if params is None else without_probes(params)
        moved, after = inner.update(gradients, state, mine, factors=_factors(probes), **extra)
        return with_zero_probes(updates, moved), after

    return refuse_foreign(compiled_if_eager(transformation(init, update)))


def has_probes(tree: Tree) -> bool:
    """Return whether a tree has probes.

    Args:
      tree: a tree.

    Examples:
      >>> has_probes({"kernel": jnp.ones(2)})
      False
    """
    return any(map(_is_probe, jax.tree.leaves(tree, is_leaf=_is_probe)))


def _is_probe(x: Any) -> bool:
    return isinstance(x, Probe)


def _probes(tree: Tree) -> dict[str, Probe]:
    """Return the probes by the path of the layer that contains them."""
    out = {}
    for path, probe in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_probe)[0]:
        if not isinstance(probe, Probe):
            continue
        place, there = path_name(path).rpartition("/")[0], len(jax.tree.leaves(probe))
        if 0 < there < len(probe.sums):
            raise ValueError(
                f"The probe of layer '{place}' is masked in part. A mask must hold all of a probe, or nothing of it: "
                f"give it the layer's own label."
            )
        if there and "examples" not in probe.sums:
            raise ValueError(f"The probe of layer '{place}' counts no examples: make it by capture.attach(params).")
        if there:
            out[place] = probe
    return out


def _check_given(factors: Any, probes: Mapping[str, Probe]) -> None:
    """Refuse factors of the layers that have probes; those of other layers belong to another part of a mixture."""
    if factors is not None and (not isinstance(factors, Mapping) or not probes.keys().isdisjoint(factors)):
        raise ValueError(
            "factors= is given, but layers= was not: then factors are the gradients of probes. Give layers=, too."
        )


def _layers(probes: Mapping[str, Probe]) -> dict[str, Layer]:
    return {place: probe.layer.put_at(place) for place, probe in probes.items()}


def _factors(probes: Mapping[str, Probe]) -> dict[str, LayerFactors]:
    # The outputs' cotangents are those of a mean.
    return {place: probe.factors(1 / jnp.maximum(probe.sums["examples"], 1)) for place, probe in probes.items()}

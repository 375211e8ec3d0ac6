"""Measure the expected Fisher matrix in loops that pass gradients alone: probes get other cotangents than weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from precond.arguments import described
from precond.blocks import Probe, path_name
from precond.layers.estimators import Estimator
from precond.layers.watch_taps import watch_taps
from precond.trees import Tree

__all__ = ["with_fisher"]


@described()
def with_fisher(forward: Callable[..., Any], fisher: Estimator, *, has_aux: bool = False) -> Callable[..., Any]:
    r"""Return the same model, whose probes get the gradients of another Fisher matrix than the empirical one.

    One backward pass has one cotangent of the outputs. If this is the loss's, probes get the empirical Fisher matrix.
    Here the backward pass of the whole model runs twice from the same forward pass: with the cotangent of the loss for
    the parameters, and with the cotangents of `fisher` for the probes. So `jax.grad` and everything built on it
    (`TrainState`, `optax.MultiSteps`) sees only gradients.

    Args:
      forward: a function from parameters that carry probes (`capture.attach(params)`) and arguments to the outputs by
        examples (with `has_aux`, to a pair of them and anything else):
        `lambda params, x: capture.apply({"params": params}, x)`. Anything that depends on parameters to be
        differentiated must be an argument.
      fisher: `sampled` or `exact`.
      has_aux: whether `forward` returns a pair.

    Returns:
      A function like `forward`, with one more argument, `key`, which `sampled` needs. The number of examples is counted
      in the outputs, as in `precond.layers.Capture.attach`. It can be differentiated in reverse, and once.

    Raises:
      ValueError: for the empirical Fisher matrix, which needs no wrapper.

    Examples:
      >>> from precond import layers
      >>> params, x = {"kernel": jnp.asarray([[2.0]])}, jnp.asarray([[1.0], [3.0]])
      >>> capture = layers.explicit({"": layers.dense(bias=False)}, params)
      >>> def model(params, x):
      ...     return capture.counted(
      ...         params, capture.apply("", params, x @ params["kernel"], x)
      ...     )
      >>> exactly = with_fisher(model, layers.exact(layers.gaussian()))
      >>> grads = jax.grad(lambda params: 7 * jnp.mean(exactly(params, x)))(
      ...     capture.attach(params)
      ... )
      >>> grads["kernel"].item()
      14.0
      >>> # The loss is a mean over two examples: this is A, and G is 1 without a 7.
      >>> [f.item() for f in grads["_kfac"].factors(1 / 2)[:2]]
      [5.0, 1.0]
    """
    pull = fisher.pull
    if pull is None:
        raise ValueError("fisher=empirical() is the default of probes without with_fisher(): leave it out.")

    def run(params: Tree, args: tuple[Any, ...]) -> tuple[Any, Any]:
        out = forward(params, *args)
        return out if has_aux else (out, None)

    @jax.custom_vjp
    def model(params: Tree, args: tuple[Any, ...], key: jax.Array | None) -> tuple[Any, Any]:
        del key
        return run(params, args)

    def ahead(params: Tree, args: tuple[Any, ...], key: jax.Array | None) -> tuple[Any, Any]:
        with watch_taps():
            outputs, back, aux = jax.vjp(run, params, args, has_aux=True)
        return (outputs, aux), (outputs, back, key)

    def behind(kept: tuple[Any, ...], slopes: tuple[Any, ...]) -> tuple[Any, ...]:
        outputs, back, key = kept
        own, others = back(slopes[0])
        seen = pull(key, outputs, lambda g: _probes(back(g)[0]))
        return _exchanged(own, seen), others, None

    model.defvjp(ahead, behind)

    def wrapped(params: Tree, *args: Any, key: jax.Array | None = None) -> Any:
        outputs, aux = model(params, args, key)
        return (outputs, aux) if has_aux else outputs

    return wrapped


def _is_probe(x: object) -> bool:
    return isinstance(x, Probe)


def _probes(tree: Tree) -> dict[str, Probe]:
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_probe)[0]
    return {path_name(path): x for path, x in leaves if _is_probe(x)}


def _exchanged(tree: Tree, seen: dict[str, Probe]) -> Tree:
    """Return the tree with other probes."""

    def one(path: tuple[Any, ...], own: Any) -> Any:
        return _as_of_a_mean(own, seen[path_name(path)]) if _is_probe(own) else own

    return jax.tree_util.tree_map_with_path(one, tree, is_leaf=_is_probe)


def _as_of_a_mean(own: Probe, new: Probe) -> Probe:
    """Return sums of each example's own cotangents as those of their mean, which a loop's gradients are."""
    n = own.sums["examples"]
    squares = ("outputs",) if own.layer.outputs else ("inputs",)  # the factor of a norm is one of cotangents

    def scaled(x: jax.Array) -> jax.Array:
        return x / jnp.square(n).reshape(n.shape + (1,) * (x.ndim - n.ndim))

    sums = {name: scaled(x) if name in squares else x for name, x in new.sums.items()}
    return Probe(own.layer, {**sums, "examples": n})

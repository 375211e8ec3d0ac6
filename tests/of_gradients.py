"""K-FAC and EK-FAC with the matrices of any tree for layers, and factors that are made of the gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import precond
from precond.blocks import Layer, path_name
from precond.layers import LayerFactors
from precond.layers.bases_of import bases_of

__all__ = ["ekfac", "kfac"]


def layers_of(tree: Any) -> dict[str, Layer]:
    """Each matrix as a layer without a bias."""
    found = {}
    for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        x = jnp.asarray(x) if not hasattr(x, "dtype") else x
        if x.ndim == 2 and x.size and jnp.issubdtype(x.dtype, jnp.floating):
            found[path_name(path)] = Layer(path_name(path), None, 0, tuple(x.shape), (), (0,), (1,))
    return found


def factors_of(grads: Any, layers: dict[str, Layer], state: Any) -> dict[str, LayerFactors]:
    """As if each gradient were that of one example, and a little more, by which no eigenvalues are equal."""
    out = {}
    bases = {} if state is None else bases_of(state, layers, grads)
    leaves = {path_name(path): x for path, x in jax.tree_util.tree_flatten_with_path(grads)[0]}
    for name, layer in layers.items():
        g = jnp.asarray(leaves[layer.kernel])[None]
        g = g.astype(jnp.promote_types(jnp.float32, g.dtype))
        a, b = (x + jnp.diag(jnp.arange(1.0, 1 + len(x[0]), dtype=x.dtype)) for x in (g @ g.mT, g.mT @ g))
        there = bases.get(name)
        moments = None if there is None else jnp.square(there["inputs"].mT @ g @ there["outputs"])
        out[name] = LayerFactors(a, b, moments)
    return out


def _made(alias: Any, measured: bool, learning_rate: Any, **kwargs: Any) -> optax.GradientTransformationExtraArgs:
    def tx_of(tree: Any) -> Any:
        layers = layers_of(tree)
        return layers, alias(learning_rate, layers, **kwargs) if layers else optax.adam(learning_rate)

    def update(grads: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        layers, tx = tx_of(grads)
        factors = factors_of(grads, layers, state if measured and layers else None)
        return optax.with_extra_args_support(tx).update(grads, state, params, factors=factors, **extra)

    return optax.GradientTransformationExtraArgs(lambda params: tx_of(params)[1].init(params), update)


def kfac(learning_rate: Any, **kwargs: Any) -> optax.GradientTransformationExtraArgs:
    """`precond.kfac`."""
    return _made(precond.kfac, False, learning_rate, **kwargs)


def ekfac(learning_rate: Any, **kwargs: Any) -> optax.GradientTransformationExtraArgs:
    """`precond.ekfac`."""
    return _made(precond.ekfac, True, learning_rate, **kwargs)

"""Check parameters and gradients before anything is computed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from precond.arguments import check_arrays
from precond.blocks.path_name import path_name

__all__ = ["check_leaves", "check_shapes"]


def check_leaves(params: Any) -> None:
    """Raise unless every parameter can have a gradient.

    Raises:
      TypeError: for a parameter of integers, booleans or keys, or of floating-point numbers of 8 bits.

    Examples:
      >>> check_leaves({"steps": jnp.zeros(3, int)})
      Traceback (most recent call last):
      TypeError: 'steps' is of int32, which has no gradient: leave it out with optax.masked or optax.partition.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(jax.eval_shape(lambda tree: tree, params))[0]:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"'{path_name(path)}' is of {leaf.dtype}, which has no gradient: leave it out with optax.masked or "
                f"optax.partition."
            )
        if leaf.dtype.itemsize < 2:
            raise TypeError(_narrow(f"'{path_name(path)}'", leaf.dtype))


def _narrow(what: str, dtype: Any) -> str:
    return (
        f"{what} is of {dtype}, with which JAX computes nothing: cast it to bfloat16 or float32, and to its own type "
        f"where the model uses it."
    )


def check_shapes(updates: Any, params: Any) -> None:
    """Raise unless every gradient is of real or complex numbers, and has the shape of its parameter.

    Shapes are compared only if both trees have equally many leaves.

    Raises:
      ValueError: for a gradient of another shape.
      TypeError: for a gradient of integers or booleans, of 8 bits, or of complex numbers where the parameter is real.

    Examples:
      >>> check_shapes({"w": jnp.zeros(3)}, {"w": jnp.zeros(4)})
      Traceback (most recent call last):
      ValueError: The gradient of 'w' has the shape (3,), the parameter (4,).
    """
    gradients, leaves = jax.tree_util.tree_flatten_with_path(updates)[0], jax.tree.leaves(params)
    for path, g in gradients:
        dtype = g.dtype if hasattr(g, "dtype") else np.result_type(g)
        if getattr(dtype, "kind", "f") in "biu" and dtype != jax.dtypes.float0:
            raise TypeError(
                f"The gradient of '{path_name(path)}' is of {dtype}: gradients are floating-point numbers. "
                f"Give those of jax.grad, and not data, labels or masks."
            )
        if dtype.itemsize < 2 and dtype != jax.dtypes.float0:
            raise TypeError(_narrow(f"The gradient of '{path_name(path)}'", dtype))
    if len(gradients) != len(leaves):
        return
    for (path, g), p in zip(gradients, leaves, strict=True):
        if jnp.iscomplexobj(g) and not jnp.iscomplexobj(p):
            raise TypeError(
                f"The gradient of '{path_name(path)}' is complex, and the parameter is real: take the real part of "
                f"the loss before jax.grad."
            )
        if jnp.shape(g) != jnp.shape(p):
            check_arrays("updates", updates)
            check_arrays("params", params)
            raise ValueError(
                f"The gradient of '{path_name(path)}' has the shape {jnp.shape(g)}, the parameter {jnp.shape(p)}."
            )

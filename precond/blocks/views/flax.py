"""Flax's layouts: kernels `[inputs, outputs]`, which a module's name tells how to divide."""

import re
from collections.abc import Iterator
from typing import Any

from precond.blocks.parameter import Parameter, as_parameter
from precond.blocks.paths import parts_of
from precond.blocks.view import View
from precond.blocks.views.names import (
    fused,
    is_adapter,
    is_convolution,
    is_depthwise,
    is_elementwise,
    is_linear,
    is_vocabulary,
    module_of,
)
from precond.blocks.views.reading import adapter, is_real, last_two, over, spelled, split

__all__ = ["flax", "read_kernel"]

_TO_HEADS = re.compile(
    r"(.*_)?(query|key|value|[qkv]|[qkv]_proj|to_[qkv]|w_?[qkv]|w?q_b|w?kv_b|kv_b_proj|q_b_proj)", re.I
)
_FROM_HEADS = re.compile(r"(.*_)?(out|o|o_proj|out_proj|to_out|attn_vec_einsum)|.*att.*/wo", re.I)


def flax(path: str, leaf: Any) -> View | None:
    """Read a parameter by the conventions of Flax, of Linen and nnx, and of models that are written in them.

    The module's name says how many axes are inputs and how many are outputs. A kernel that has more axes than its
    module's name allows is a stack of layers along axis 0, as is every parameter whose neighbours say so.

    Args:
      path: of the parameter, `"block/mlp/kernel"`.
      leaf: the parameter, or anything with its shape and dtype.

    Examples:
      >>> import jax.numpy as jnp
      >>> flax("attention/query/kernel", jnp.zeros((64, 4, 16)))
      View(axes=((0,), (1, 2)), passive=(), shape=None)
      >>> flax("layers/attention/query/kernel", jnp.zeros((6, 64, 4, 16)))
      View(axes=((1,), (2, 3)), passive=(), shape=None)
    """
    parts = parts_of(path)
    if not is_real(leaf) or is_elementwise(parts):
        return None
    whole = as_parameter(leaf)
    return over(whole.stacked, _one_layer)(path, whole)


def _one_layer(path: str, leaf: Any) -> View | None:
    return read_kernel(path, leaf, 0)


def read_kernel(path: str, leaf: Parameter, scan_axis: int) -> View | None:
    """Read a kernel, of which axes that its module's name does not account for are batch axes from `scan_axis` on.

    Args:
      path: of the parameter.
      leaf: the parameter.
      scan_axis: where the axes of layers stand.

    Examples:
      >>> import jax.numpy as jnp
      >>> read_kernel("mlp/wi_0/kernel", Parameter((64, 6, 128), jnp.dtype("float32")), 1)
      View(axes=((0,), (2,)), passive=(), shape=None)
    """
    parts, shape = parts_of(path), leaf.shape
    if len(shape) < 2 or is_vocabulary(parts) or leaf.siblings.get("bias") == shape:
        return None
    if is_adapter(parts):
        return adapter(shape)
    for axes in _spellings(parts, leaf):
        more = len(shape) - len(axes)
        layers = tuple(range(start := min(scan_axis, len(axes)), start + more))
        one = leaf.without(layers)
        if more >= 0 and ("f" not in axes or one.shape[axes.index("f")] == fused(parts)):
            return over(layers, lambda path, one, axes=axes: _matrices(parts, one, axes))(path, leaf)
    return last_two(shape)


def _spellings(parts: tuple[str, ...], leaf: Parameter) -> Iterator[str]:
    """What the axes of one layer may be, the likeliest first; `f` is the axis of fused matrices."""
    of_module = parts[-1] in ("kernel", "w")
    name, rank, convolution = module_of(parts) if of_module else parts[-1], leaf.ndim, "r" * (leaf.ndim - 1) + "c"
    bias = leaf.siblings.get("bias", ()) if of_module else ()
    if rank == 2 or (fused(parts) and leaf.shape[-1] == 3 * leaf.shape[-2]):
        yield "rc"
    elif fused(parts):
        yield from ("rfcc", "rfc", "rcc")
    elif 1 < len(bias) < rank and leaf.shape[-len(bias) :] == bias:
        yield "r" * (rank - len(bias)) + "c" * len(bias)
    elif is_convolution(parts) or _is_window(parts, leaf.shape):
        yield convolution
    elif "einsum" in name or not of_module:
        # [inputs, heads, width], or [heads, inputs, width], which is a batch: there are fewer heads than inputs.
        if _FROM_HEADS.fullmatch(name) and of_module:
            yield "rrc"
        elif rank == 3 and leaf.shape[0] > leaf.shape[1] and ("einsum" in name or _TO_HEADS.fullmatch(name)):
            yield "rcc"
    elif _TO_HEADS.fullmatch(name):
        yield "rcc"
    elif _FROM_HEADS.fullmatch(name) or _FROM_HEADS.fullmatch("/".join(parts[:-1])):
        yield "rrc"
    elif is_linear(parts):
        yield "rc"
    elif parts[-1] == "kernel":
        yield convolution


def _is_window(parts: tuple[str, ...], shape: tuple[int, ...]) -> bool:
    """Whether the first of four axes are the sides of a square window, outside of attention."""
    return parts[-1] == "kernel" and len(shape) == 4 and shape[0] == shape[1] and "att" not in "/".join(parts).lower()


def _matrices(parts: tuple[str, ...], leaf: Parameter, axes: str) -> View | None:
    """One layer's kernel, with its axes spelled."""
    shape, gates, parallel = leaf.shape, leaf.siblings.get("recurrent_kernel"), fused(parts)
    if axes == "rc" and gates and gates[1] % gates[0] == 0 and gates[1] > gates[0]:
        return split(shape, 1, gates[1] // gates[0])  # Keras: the gates of a recurrent cell, side by side
    if axes == "rc" and parallel and shape[1] % parallel == 0 and (parallel == 2 or shape[1] == 3 * shape[0]):
        return split(shape, 1, parallel)
    if axes == "r" * (len(axes) - 1) + "c" and len(axes) > 2 and shape[-2] == 1 and is_depthwise(parts, shape[-1]):
        return None
    return spelled(axes.replace("f", "b"), shape)

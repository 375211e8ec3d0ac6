"""Choose views by Flax's layouts: kernels `[inputs, outputs]`, with axes that the module's name explains."""

import re
from typing import Any

from precond.blocks.has_vocabulary import has_vocabulary
from precond.blocks.is_spectral import is_spectral
from precond.blocks.parameter import Parameter, as_parameter
from precond.blocks.parameter_names import (
    fused,
    is_convolution,
    is_depthwise,
    is_depthwise_filter,
    is_elementwise,
    is_linear,
    is_single,
    is_window,
    module_of,
)
from precond.blocks.path_name import parts_of
from precond.blocks.view import View
from precond.blocks.views.adapter import adapter, is_adapter
from precond.blocks.views.find_gates import find_gates, is_recurrent
from precond.blocks.views.matrices import first_two, from_letters, has_real_matrix, last_two, split, with_batch_axes

__all__ = ["flax", "read_kernel"]

_TO_HEADS = re.compile(
    r"(.*_)?(query|key|value|[qkv]|[qkv]_proj|to_[qkv]|w_?u?[qkv]|w?q_b|w?kv_b|kv_b_proj|q_b_proj|"
    r"(query|key|value|gating|[qkv])_(w|kernel|weights?))",
    re.I,
)
_FROM_HEADS = re.compile(r"(.*_)?(out|o|o_proj|out_proj|to_out|attn_vec_einsum)|.*att.*/wo", re.I)
_LEAF_FROM_HEADS = re.compile(r"out|o|o_proj|out_proj|to_out|w_?o|w_?out|(output|out|o)_(w|kernel|weights?)", re.I)


def flax(path: str, leaf: Any) -> View | None:
    """Read a parameter by the conventions of Flax, of Linen and nnx, and of models that are written in them.

    The module's name says how many axes are inputs and how many are outputs. A kernel that has more axes than its
    module's name allows is a stack of layers, along the shorter of its first two axes. So is every parameter whose
    neighbours say so.

    Args:
      path: the path of the parameter, `"block/mlp/kernel"`.
      leaf: the parameter, or anything with its shape and dtype.

    Examples:
      >>> import jax.numpy as jnp
      >>> flax("attention/query/kernel", jnp.zeros((64, 4, 16)))
      View(axes=((0,), (1, 2)), passive=(), shape=None)
      >>> flax("layers/attention/query/kernel", jnp.zeros((6, 64, 4, 16)))
      View(axes=((1,), (2, 3)), passive=(), shape=None)
    """
    parts = parts_of(path)
    if not has_real_matrix(leaf):
        return None
    whole = as_parameter(leaf)
    is_vector = is_elementwise(parts) or _is_bias(parts[-1], whole) or is_single(parts[-1], whole.neighbours)
    if is_vector and not is_adapter(parts, whole):
        return None
    return with_batch_axes(whole.layer_axes, _one_layer)(path, whole)


def _one_layer(path: str, leaf: Any) -> View | None:
    inputs_first = leaf.ndim > 2 and leaf.shape[0] > leaf.shape[1]
    if inputs_first and leaf.shape[1] > 1:  # several heads may be fewer than the layers
        inputs_first = not _comes_from_heads(parts_of(path), leaf)
    return read_kernel(path, leaf, 1 if inputs_first else 0)


def _is_bias(name: str, leaf: Parameter) -> bool:
    """Return whether this is a bias of Haiku, `b` beside `w`, or `query_b` beside `query_w`."""
    if name == "b":  # any other matrix may be called b
        return not {"w", "w_h"}.isdisjoint(leaf.neighbours)
    return name.endswith("_b") and len(leaf.neighbours.get(f"{name[:-1]}w", ())) > leaf.ndim


def _comes_from_heads(parts: tuple[str, ...], leaf: Parameter) -> bool:
    if parts[-1] in ("kernel", "w"):
        return any(_FROM_HEADS.fullmatch(name) for name in (module_of(parts), "/".join(parts[:-1])))
    queries = [shape for name, shape in leaf.neighbours.items() if _TO_HEADS.fullmatch(name)]
    if leaf.ndim == 3 and any(s[:1] == leaf.shape[:1] and s[1:] == leaf.shape[:0:-1] for s in queries):
        return False  # queries [layers, d, width] and outputs [layers, width, d] of a single head
    in_attention = "att" in "/".join(parts[:-1]).lower() or any(map(_TO_HEADS.fullmatch, leaf.neighbours))
    return in_attention and _LEAF_FROM_HEADS.fullmatch(parts[-1]) is not None


def read_kernel(path: str, leaf: Parameter, scan_axis: int, unknown: str | None = None) -> View | None:
    """Read a kernel; axes that its module's name does not explain are batch axes from `scan_axis` on.

    Args:
      path: the path of the parameter.
      leaf: the parameter.
      scan_axis: the place of the axes of layers.
      unknown: the axes of a kernel whose name says nothing, as `from_letters` has them. None decides by the shape.

    Examples:
      >>> import jax.numpy as jnp
      >>> read_kernel("mlp/wi_0/kernel", Parameter((64, 6, 128), jnp.dtype("float32")), 1)
      View(axes=((0,), (2,)), passive=(), shape=None)
    """
    parts, shape = parts_of(path), leaf.shape
    if len(shape) < 2 or has_vocabulary(parts, leaf) or leaf.neighbours.get("bias") == shape:
        return None
    if is_adapter(parts, leaf):
        return adapter(parts, leaf)
    if is_spectral(parts, leaf):
        return first_two(shape)
    if len(shape) == 2 and is_depthwise_filter(parts, shape):
        return None
    if is_recurrent(parts) and len(shape) == 3:  # the heads of an sLSTM [heads, d, gates d]
        return with_batch_axes((0,), lambda _, one: _matrices(parts, one, "rc"))(path, leaf)
    for axes in _letters(parts, leaf, unknown):
        more = len(shape) - len(axes)
        layers = tuple(range(start := min(scan_axis, len(axes)), start + more))
        one = leaf.without(layers)
        if more >= 0 and ("f" not in axes or one.shape[axes.index("f")] == fused(parts)):
            return with_batch_axes(layers, lambda path, one, axes=axes: _matrices(parts, one, axes))(path, leaf)
    return last_two(shape)


def _letters(parts: tuple[str, ...], leaf: Parameter, unknown: str | None) -> tuple[str, ...]:
    """Return what the axes of one layer can be, the likeliest first; `f` is the axis of fused matrices."""
    shape, rank, held = leaf.shape, leaf.ndim, parts[-1] in ("kernel", "w")
    name, convolution = module_of(parts) if held else parts[-1], "r" * (rank - 1) + "c"
    bias = leaf.neighbours.get("bias", ()) if held and "einsum" not in name else ()
    # A stack of matrices [layers, inputs, outputs] has its longest axes last: there are fewer layers than channels, and
    # the inputs are no narrower than a head. The same rule distinguishes [inputs, heads, width] from a batch [heads,
    # inputs, width].
    to_heads = rank > 3 or shape[0] >= shape[1] > 1
    from_heads = rank > 3 or shape[-2] < shape[-1]
    if rank == 2:
        return ("rc",)
    if is_recurrent(parts) and shape[-3] == shape[-1]:
        return ("brbc",)  # the heads of an sLSTM [heads, d, gates, d]
    if fused(parts):
        return ("rc",) if shape[-1] == 3 * shape[-2] else ("rfcc", "rfc", "rcc" if to_heads else "rc")
    if rank == 3 and bias == (shape[0] * shape[2],):
        return ("brc",)  # one matrix for each head
    if bias and shape[-len(bias) :] == bias:
        return ("r" * (rank - len(bias)) + "c" * len(bias),)
    if is_window(shape[::-1]) and min(shape[:2]) > shape[-1]:
        return ("rccc",)  # the layout [outputs, inputs, h, w] under a name of Flax
    if is_convolution(parts) or is_window(shape) or (_is_patch(shape) and "att" not in "/".join(parts).lower()):
        return (convolution,)
    if _comes_from_heads(parts, leaf):
        return ("rrc" if from_heads else "rc",)
    if "einsum" in name:
        return ("rcc",) if to_heads and rank == 3 else ()
    if _TO_HEADS.fullmatch(name):
        return ("rcc",) if to_heads else ("rc",) if held else ()
    if held and is_linear(parts):
        return ("rc",)
    if parts[-1] != "kernel":
        return ()
    # A window is no longer than the number of its input channels, and no long one has an even number of places.
    is_stack = rank == 3 and shape[0] > 7 and shape[0] % 2 == 0
    return (unknown or ("rcc" if rank == 3 and to_heads else "rc" if is_stack else convolution),)


def _is_patch(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[0] == shape[1]


def _matrices(parts: tuple[str, ...], leaf: Parameter, axes: str) -> View | None:
    """Return the view of one layer's kernel, from the letters of its axes."""
    shape, parallel = leaf.shape, fused(parts)
    outputs_last = axes == "r" * (len(axes) - 1) + "c"
    axis, gates = find_gates(parts, leaf)
    if gates > 1 and (outputs_last or axis == 0):
        return split(shape, axis, gates)
    if axes == "rc" and parallel == 3 and shape[0] == 3 * shape[1]:
        return split(shape, 0, 3)  # GPT-2 of transformers in Flax, whose kernels are [outputs, inputs]
    if axes == "rc" and (shape[1] == 3 * shape[0] if parallel == 3 else parallel and shape[1] % parallel == 0):
        return split(shape, 1, parallel)
    one_input = outputs_last and len(axes) > 2 and shape[-2] == 1
    if one_input and is_depthwise(parts, shape[-1]):
        return None
    return from_letters(axes.replace("f", "b"), shape)

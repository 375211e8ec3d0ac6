"""Choose views by PyTorch's layouts, which Equinox shares: weights `[outputs, inputs, window]`."""

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
)
from precond.blocks.path_name import parts_of
from precond.blocks.view import View
from precond.blocks.views.adapter import adapter, is_adapter
from precond.blocks.views.find_gates import find_gates
from precond.blocks.views.flax import flax
from precond.blocks.views.matrices import first_two, from_letters, has_real_matrix, split, with_batch_axes

__all__ = ["torch"]

_WEIGHT = re.compile(r"(.*_)?weight(_.*)?")
_GATES = re.compile(r"weight_[ih]h(_.*)?")


def torch(path: str, leaf: Any) -> View | None:
    """Read a parameter by the conventions of PyTorch and Equinox.

    A weight `[out, in]` is a matrix, and a convolution `[out, in, h, w]` is the matrix `[out, in h w]`. The gates of a
    recurrent cell, `[4 h, in]`, and fused queries, keys and values, `[3 d, d]`, are several matrices. Embeddings and
    norms are not preconditioned. Everything else is read as `flax` reads it.

    Args:
      path: the path of the parameter, `"layers/0/weight"` or `"layers.0.weight"`.
      leaf: the parameter, or anything with its shape and dtype.

    Examples:
      >>> import jax.numpy as jnp
      >>> torch("conv/weight", jnp.zeros((64, 32, 3, 3)))
      View(axes=((0,), (1, 2, 3)), passive=(), shape=None)
      >>> torch("lstm/weight_hh_l0", jnp.zeros((256, 64)))
      View(axes=((1,), (2,)), passive=(), shape=(4, 64, 64))
    """
    parts = parts_of(path)
    if not has_real_matrix(leaf) or is_elementwise(parts):
        return None
    if not _WEIGHT.fullmatch(parts[-1]):
        return flax(path, leaf)
    whole = as_parameter(leaf)
    return with_batch_axes(whole.layer_axes, _one_layer)(path, whole)


def _one_layer(path: str, leaf: Parameter) -> View | None:
    parts, shape = parts_of(path), leaf.shape
    is_norm = leaf.neighbours.get("bias") == shape
    if len(shape) < 2 or is_norm or has_vocabulary(parts, leaf):
        return None
    if is_adapter(parts, leaf):
        return adapter(parts, leaf)
    if is_spectral(parts, leaf):
        return first_two(shape)
    if _GATES.fullmatch(parts[-1]) and len(shape) == 2:
        return _gates(parts, leaf)
    if len(shape) == 2:
        return None if is_depthwise_filter(parts, shape) else _linear(parts, shape)
    if leaf.neighbours.get("bias") != (shape[0], 1) and _is_stack(parts, shape):  # the bias of Equinox's `Conv1d`
        return with_batch_axes((0,), _one_layer)(path, leaf)
    if shape[1] == 1 and is_depthwise(parts, shape[0]):
        return None
    return from_letters("r" + "c" * (len(shape) - 1), shape)


def _gates(parts: tuple[str, ...], leaf: Parameter) -> View | None:
    """Read the gates of a cell. The name tells their number even where the hidden state of an LSTM is projected."""
    names = "/".join(parts).lower()
    count = 4 if "lstm" in names else 3 if "gru" in names else find_gates(parts, leaf)[1]
    return from_letters("rc", leaf.shape) if count == 1 or leaf.shape[0] % count else split(leaf.shape, 0, count)


def _linear(parts: tuple[str, ...], shape: tuple[int, ...]) -> View | None:
    """Read a matrix, or several one above the other; in GPT-2's `Conv1D` (`[in, out]`) they are side by side."""
    parallel, (rows, columns) = fused(parts), shape
    if parallel and (rows == 3 * columns if parallel == 3 else rows % 2 == 0):
        return split(shape, 0, parallel)
    if parallel == 3 and columns == 3 * rows:
        return split(shape, 1, parallel)
    return from_letters("rc", shape)


def _is_stack(parts: tuple[str, ...], shape: tuple[int, ...]) -> bool:
    """Return whether three axes are a stack of `[out, in]`: it has fewer layers than channels, unlike a window."""
    return len(shape) == 3 and not is_convolution(parts) and (is_linear(parts) or shape[0] <= min(shape[1:]))

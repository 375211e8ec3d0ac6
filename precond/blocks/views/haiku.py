"""Choose views by Haiku's layouts: weights `w`, `[window, inputs, outputs]`."""

import re
from typing import Any

from precond.blocks.has_vocabulary import has_vocabulary
from precond.blocks.is_spectral import is_spectral
from precond.blocks.parameter import Parameter, as_parameter
from precond.blocks.parameter_names import (
    is_convolution,
    is_depthwise,
    is_depthwise_filter,
    is_elementwise,
    is_linear,
    module_of,
)
from precond.blocks.path_name import parts_of
from precond.blocks.view import View
from precond.blocks.views.adapter import is_adapter
from precond.blocks.views.find_gates import find_gates
from precond.blocks.views.flax import flax
from precond.blocks.views.matrices import first_two, from_letters, has_real_matrix, split, with_batch_axes

__all__ = ["haiku"]

_GATES = re.compile(r"w_[ih]")
_MATRIX = re.compile(r"(.*_)?(query|key|value|[qkvo]|out)")  # of attention, which Haiku makes of `hk.Linear`


def haiku(path: str, leaf: Any) -> View | None:
    """Read a parameter by the conventions of Haiku.

    A weight `w` of more than two axes is a convolution `[h, w, in, out]`, read as the matrix `[h w in, out]`. The gates
    of a GRU, `[in, 3 h]`, and of an LSTM, `[in, 4 h]`, are several matrices. The parameters of a `layer_stack` have a
    batch axis 0. Everything else is read as `flax` reads it.

    Args:
      path: the path of the parameter, `"mlp/~/linear_0/w"`.
      leaf: the parameter, or anything with its shape and dtype.

    Examples:
      >>> import jax.numpy as jnp
      >>> haiku("conv2_d/w", jnp.zeros((3, 3, 64, 128)))
      View(axes=((0, 1, 2), (3,)), passive=(), shape=None)
      >>> haiku("lstm/linear/w", jnp.zeros((96, 128)))
      View(axes=((0,), (2,)), passive=(), shape=(96, 4, 32))
    """
    parts = parts_of(path)
    whole = as_parameter(leaf)
    if not has_real_matrix(leaf) or is_elementwise(parts) or has_vocabulary(parts, whole):
        return None
    if parts[-1] == "b" and not is_adapter(parts, whole):
        return None
    if parts[-1] != "w" and not _GATES.fullmatch(parts[-1]):
        return flax(path, leaf)
    stacked = whole.layer_axes or ((0,) if "layer_stack" in path else ())
    return with_batch_axes(stacked, _one_layer)(path, whole)


def _one_layer(path: str, leaf: Parameter) -> View | None:
    parts, shape = parts_of(path), leaf.shape
    if len(shape) < 2:
        return None
    if is_spectral(parts, leaf):
        return first_two(shape)
    if len(shape) > 2 and _GATES.fullmatch(parts[-1]):  # several cells: the weights of one cell are matrices
        return with_batch_axes(tuple(range(len(shape) - 2)), _one_layer)(path, leaf)
    if len(shape) == 2 and is_depthwise_filter(parts, shape):
        return None
    if (gates := _gates(parts, leaf)) > 1:
        return split(shape, len(shape) - 1, gates)
    if len(shape) > 2 and shape[-2] == 1 and is_depthwise(parts, shape[-1]):
        return None
    if len(shape) == 3 and not is_convolution(parts) and (is_linear(parts) or _MATRIX.fullmatch(module_of(parts))):
        return with_batch_axes((0,), _one_layer)(path, leaf)
    return from_letters("r" * (len(shape) - 1) + "c", shape)


def _gates(parts: tuple[str, ...], leaf: Parameter) -> int:
    """Count the gates of a recurrent cell that are side by side; an LSTM `[in + h, 4 h]` may be one matrix."""
    cell = "/".join(parts[:-2] if parts[-2:-1] == ("linear",) else parts[-2:-1])
    count, rest = divmod(leaf.shape[-1], 4)
    if leaf.ndim == 2 and "lstm" in cell and not rest and leaf.shape[0] > count:
        return 4
    return find_gates(parts, leaf)[1]

"""Flax's convolutions, linen and nnx, in the words of `jax.lax`."""

from collections.abc import Sequence
from typing import Any

from precond.layers.kinds import Conv

__all__ = ["as_tuple", "convolution", "transposed_convolution"]


def as_tuple(x: Any) -> tuple[Any, ...]:
    """A sequence as a tuple, anything else as a tuple of one.

    Examples:
      >>> as_tuple(3), as_tuple([3, 4])
      ((3,), (3, 4))
    """
    return tuple(x) if isinstance(x, Sequence) else (x,)


def _padding(padding: Any, k: int) -> Any:
    """As `jax.lax` takes it."""
    if isinstance(padding, str):
        return padding
    pairs = (padding,) * k if isinstance(padding, int) else tuple(padding)
    return tuple((p, p) if isinstance(p, int) else tuple(p) for p in pairs)


def _each(x: Any, k: int) -> tuple[int, ...]:
    return (x or 1,) * k if x is None or isinstance(x, int) else tuple(x)


def convolution(m: Any) -> Conv:
    """What a `Conv` of either Flax does.

    Args:
      m: the module.

    Raises:
      ValueError: for a masked kernel.
    """
    kernel = as_tuple(m.kernel_size)
    k, padding, mode = len(kernel), _padding(m.padding, len(kernel)), "constant"
    dilation = _each(m.kernel_dilation, k)
    if m.mask is not None:
        raise ValueError("its kernel is masked")
    wide = [(size - 1) * d for size, d in zip(kernel, dilation, strict=True)]
    if padding in ("CIRCULAR", "REFLECT"):
        padding, mode = tuple((w // 2, (w + 1) // 2) for w in wide), "wrap" if padding == "CIRCULAR" else "reflect"
    elif padding == "CAUSAL":
        padding = tuple((w, 0) for w in wide)
    groups, strides, holes = m.feature_group_count, _each(m.strides, k), _each(m.input_dilation, k)
    return Conv(m.use_bias, kernel, strides, padding, holes, dilation, groups, mode)


def _transposed(size: int, stride: int, padding: str) -> tuple[int, int]:
    """The padding of a transposed convolution as one of a convolution of a dilated input, as `lax.conv_transpose`."""
    if padding == "SAME":
        total = size + stride - 2
        low = size - 1 if stride > size - 1 else -(-total // 2)
        return low, total - low
    return size - 1, stride - 1 + max(size - stride, 0)


def transposed_convolution(m: Any) -> Conv:
    """What a `ConvTranspose` of either Flax does: a convolution of an input with zeros between its positions.

    Args:
      m: the module.

    Raises:
      ValueError: for a mask, `transpose_kernel=True` or circular padding.
    """
    kernel = as_tuple(m.kernel_size)
    k, padding = len(kernel), _padding(m.padding, len(kernel))
    if m.mask is not None or m.transpose_kernel or padding == "CIRCULAR":
        raise ValueError("a transposed convolution with a mask, transpose_kernel=True or circular padding")
    strides, dilation = _each(m.strides, k), _each(m.kernel_dilation, k)
    if isinstance(padding, str):
        sizes = [(size - 1) * d + 1 for size, d in zip(kernel, dilation, strict=True)]
        padding = tuple(_transposed(size, s, padding) for size, s in zip(sizes, strides, strict=True))
    return Conv(m.use_bias, kernel, (1,) * k, padding, strides, dilation)

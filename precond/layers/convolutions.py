"""Translate the convolutions of Flax, linen and nnx, to the arguments of `jax.lax`."""

from collections.abc import Sequence
from typing import Any

from precond.layers.kinds import Conv

__all__ = ["as_tuple", "convolution", "transposed_convolution"]

Pairs = tuple[tuple[int, int], ...]


def as_tuple(x: Any) -> tuple[Any, ...]:
    """Return a sequence as a tuple, and anything else as a tuple of one.

    Examples:
      >>> as_tuple(3), as_tuple([3, 4])
      ((3,), (3, 4))
    """
    return tuple(x) if isinstance(x, Sequence) else (x,)


def _padding(padding: str | int | Sequence[int | tuple[int, int]], k: int) -> str | Pairs:
    """Return the padding in the form of `jax.lax`."""
    if isinstance(padding, str):
        return padding
    pairs = (padding,) * k if isinstance(padding, int) else tuple(padding)
    return tuple((p, p) if isinstance(p, int) else (p[0], p[1]) for p in pairs)


def _each(x: int | Sequence[int] | None, k: int) -> tuple[int, ...]:
    return (x or 1,) * k if x is None or isinstance(x, int) else tuple(x)


def convolution(m: Any) -> Conv:
    """Describe a `Conv` of either Flax.

    Args:
      m: the module.

    Raises:
      ValueError: if its kernel is masked.
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
    """Return the padding of the dilated input for which `lax.conv_transpose` is a convolution."""
    if padding == "SAME":
        total = size + stride - 2
        low = size - 1 if stride > size - 1 else -(-total // 2)
        return low, total - low
    return size - 1, stride - 1 + max(size - stride, 0)


def transposed_convolution(m: Any) -> Conv:
    """Describe a `ConvTranspose` of either Flax as a convolution of an input with zeros between its positions.

    Args:
      m: the module.

    Raises:
      ValueError: if it has a mask, `transpose_kernel=True` or circular padding.
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

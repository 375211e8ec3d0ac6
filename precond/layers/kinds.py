"""Kinds of layers: what of their input and of their output's cotangent makes the weights' gradient."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from precond.arguments import described
from precond.blocks import Layer

__all__ = ["Contraction", "Conv", "Embed", "Kind", "Scale", "Signals", "dense", "einsum"]


class Signals(NamedTuple):
    """What a layer saw, by example n, shared position t and group r.

    The gradient of a layer's weights (a bias as their last row) is the sum over n and t of `inputs outputs^T`.

    Attributes:
      inputs: `[n, t, r, i]`; of an embedding the indices, `[n, t]`; of a scale the gradient of each example.
      outputs: the cotangents of the layer's output, `[n, t, r, o]`; None for a scale.
    """

    inputs: jax.Array
    outputs: jax.Array | None


def _with_one(x: jax.Array, bias: bool) -> jax.Array:
    """Homogeneous coordinates: a bias is a weight whose input is one."""
    return jnp.concatenate([x, jnp.ones((*x.shape[:-1], 1), x.dtype)], axis=-1) if bias else x


def _examples(shape: tuple[int, ...], batch: int) -> int:
    return math.prod(shape[:batch])


class Contraction(NamedTuple):
    """A product of the input with the weights over some axes: Dense, DenseGeneral, einsum.

    Attributes:
      bias: whether the layer adds one.
      inputs: axes of the input that are contracted, in the order of the weights' axes; counted from the end.
      outputs: axes of the output that come from the weights, likewise.
      input_groups: axes of the input that the weights have too, and that are not contracted.
      output_groups: the same axes in the output.
      weights: what each axis of the weights is: (g)roup, (i)nput or (o)utput.
    """

    bias: bool
    inputs: tuple[int, ...] = (-1,)
    outputs: tuple[int, ...] = (-1,)
    input_groups: tuple[int, ...] = ()
    output_groups: tuple[int, ...] = ()
    weights: str = "io"

    def layer(self, kernel: str, bias: str | None, shape: tuple[int, ...]) -> Layer:
        """The layer with weights of this shape; its paths are those given."""
        lead = len(shape) - len(self.weights)
        groups, inputs, outputs = (tuple(i for i, c in enumerate(self.weights) if c == role) for role in "gio")
        return Layer(kernel, bias, lead, shape[lead:], groups, inputs, outputs)

    def signals(self, x: jax.Array, g: jax.Array, batch: int) -> Signals:
        """The signals of an input and a cotangent; the first `batch` axes that are left number the examples."""

        def rows(y: jax.Array, groups: tuple[int, ...], features: tuple[int, ...]) -> jax.Array:
            last = tuple(i % y.ndim for i in groups + features)
            shared = tuple(i for i in range(y.ndim) if i not in last)
            y = y.transpose(shared + last)
            lead, end = y.shape[: len(shared)], len(shared) + len(groups)
            sizes = (math.prod(y.shape[len(shared) : end]), math.prod(y.shape[end:]))
            return y.reshape(_examples(lead, batch), math.prod(lead[batch:]), *sizes)

        inputs = rows(x, self.input_groups, self.inputs)
        return Signals(_with_one(inputs, self.bias), rows(g, self.output_groups, self.outputs))


@described()
def dense(bias: bool = True, inputs: int = 1, outputs: int = 1) -> Contraction:
    """A product over the last axes of the input: Dense, DenseGeneral.

    Args:
      bias: whether the layer adds one.
      inputs: how many axes are contracted.
      outputs: how many axes the output gets in their place.

    Examples:
      >>> dense(outputs=2).outputs  # the projection to the heads of an attention
      (-2, -1)
    """
    return Contraction(bias, tuple(range(-inputs, 0)), tuple(range(-outputs, 0)), weights="i" * inputs + "o" * outputs)


@described()
def einsum(subscripts: str, ndim: int, bias: bool = False) -> Contraction:
    """A product of an input (first) with weights (second) in Einstein's notation.

    Args:
      subscripts: `"...d,hdk->...hk"`. An index that all three have is one of independent groups.
      ndim: the number of the input's axes.
      bias: whether the layer adds one, of the shape of the groups and the outputs.

    Raises:
      ValueError: for anything that is not one product of two, each index once in each, with an axis of the output that
        the weights alone have; or that reorders shared axes.

    Examples:
      >>> einsum("...d,hdk->...hk", ndim=3).outputs
      (-2, -1)
      >>> einsum("end,edf->enf", ndim=3).input_groups
      (-3,)
    """
    left, _, result = subscripts.replace(" ", "").partition("->")
    x, _, w = left.partition(",")
    dots = "".join(chr(ord("A") + i) for i in range(ndim - len(x.replace("...", ""))))
    x, result = x.replace("...", dots), result.replace("...", dots)
    contracted = [c for c in w if c in x and c not in result]
    free = [c for c in w if c in result and c not in x]
    groups = [c for c in w if c in x and c in result]
    shared = [c for c in x if c not in w]
    whole = all(len(set(s)) == len(s) for s in (x, w, result)) and len(contracted + free + groups) == len(w)
    if not (whole and free and [c for c in result if c not in w] == shared and len(x) == ndim):
        raise ValueError(f"einsum {subscripts!r} is no product of an input with weights to new axes.")

    def at(indices: list[str], operand: str) -> tuple[int, ...]:
        return tuple(operand.index(c) - len(operand) for c in indices)

    roles = "".join("g" if c in groups else "i" if c in contracted else "o" for c in w)
    return Contraction(bias, at(contracted, x), at(free, result), at(groups, x), at(groups, result), roles)


class Conv(NamedTuple):
    """A convolution, channels last, of any number of spatial dimensions; the arguments are those of `jax.lax`'s.

    Attributes:
      bias: whether the layer adds one.
      kernel: the kernel's spatial shape.
      strides: of the window.
      padding: "SAME", "VALID", or (low, high) for each dimension.
      input_dilation: zeros between the input's positions (a transposed convolution's strides).
      kernel_dilation: holes in the kernel.
      groups: of channels.
      mode: of `jnp.pad`, for padding in pairs.
    """

    bias: bool
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: str | tuple[tuple[int, int], ...]
    input_dilation: tuple[int, ...]
    kernel_dilation: tuple[int, ...]
    groups: int = 1
    mode: str = "constant"

    def layer(self, kernel: str, bias: str | None, shape: tuple[int, ...]) -> Layer:
        """The layer with weights of this shape; its paths are those given."""
        k = len(self.kernel)
        inner = (*shape[-k - 2 : -1], self.groups, shape[-1] // self.groups)
        return Layer(kernel, bias, len(shape) - k - 2, inner, (k + 1,), tuple(range(k + 1)), (k + 2,))

    def signals(self, x: jax.Array, g: jax.Array, batch: int) -> Signals:
        """The patches under the kernel, and the cotangents, by position of the output."""
        k = len(self.kernel)
        lead, channels, padding = x.shape[: -k - 1], x.shape[-1], self.padding
        flat = x.reshape(-1, *x.shape[-k - 1 :])
        if self.mode != "constant":
            pairs: Any = [(0, 0), *padding, (0, 0)]
            flat, padding = jnp.pad(flat, pairs, mode=self.mode), "VALID"
        space = "".join(chr(ord("a") + i) for i in range(k))
        patches = lax.conv_general_dilated_patches(
            flat,
            self.kernel,
            self.strides,
            padding,
            lhs_dilation=self.input_dilation,
            rhs_dilation=self.kernel_dilation,
            dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
            precision=lax.Precision.HIGHEST,
        )
        # They come channel by channel, [.., C, h w]; the kernel is [h w, C].
        n, r = _examples(lead, batch), self.groups
        patches = patches.reshape(n, -1, r, channels // r, math.prod(self.kernel))
        inputs = jnp.swapaxes(patches, -1, -2).reshape(*patches.shape[:3], -1)
        return Signals(_with_one(inputs, self.bias), g.reshape(n, -1, r, g.shape[-1] // r))


class Embed(NamedTuple):
    """A look-up of rows: a product with one-hot vectors, whose factor is diagonal.

    Attributes:
      vocabulary: the number of rows.
    """

    vocabulary: int

    @property
    def bias(self) -> bool:
        """It has none."""
        return False

    def layer(self, kernel: str, bias: str | None, shape: tuple[int, ...]) -> Layer:
        """The layer with weights of this shape; its paths are those given."""
        return Layer(kernel, bias, len(shape) - 2, shape[-2:], (), (0,), (1,), diagonal=True)

    def signals(self, x: jax.Array, g: jax.Array, batch: int) -> Signals:
        """The indices, and the cotangents."""
        n = _examples(x.shape, batch)
        return Signals(x.reshape(n, -1), g.reshape(n, -1, 1, g.shape[-1]))


class Scale(NamedTuple):
    """The scale of a norm, and its shift: one block of the Fisher matrix for each channel.

    Its input is the normalised one, so that the output is `scale x + bias` along the last axis.

    Attributes:
      bias: whether the layer adds one.
    """

    bias: bool

    def layer(self, kernel: str, bias: str | None, shape: tuple[int, ...]) -> Layer:
        """The layer with weights of this shape; its paths are those given."""
        return Layer(kernel, bias, len(shape) - 1, shape[-1:], (0,), (), ())

    def signals(self, x: jax.Array, g: jax.Array, batch: int) -> Signals:
        """The gradient of each example by channel, `[n, 1, channels, 1 or 2]`."""
        wide = jnp.promote_types(jnp.float32, g.dtype)
        both = [x.astype(wide) * g] + ([g.astype(wide)] if self.bias else [])
        n = _examples(g.shape[:-1], batch)
        return Signals(jnp.stack([y.reshape(n, -1, y.shape[-1]).sum(1) for y in both], axis=-1)[:, None], None)


Kind = Contraction | Conv | Embed | Scale

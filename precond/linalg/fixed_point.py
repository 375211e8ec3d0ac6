"""Keep numbers in 16 bits with one scale for each row."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["FixedPoint", "fixed_point"]

_BITS = 15  # without the sign


class FixedPoint(NamedTuple):
    r"""Hold a stack of blocks as integers of 16 bits, with one scale for each row.

    A row is all entries of a block with one index on its first axis; a vector is one row. A large number keeps 14 or 15
    bits, where bfloat16 keeps 8.

    Attributes:
      integers: the numbers as multiples of their row's scale, `[N, d1, .., dk]`.
      scales: powers of two, `[N, d1]`; `[N]` for vectors.
    """

    integers: jax.Array
    scales: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the stack."""
        return self.integers.shape

    def numbers(self) -> jax.Array:
        """Return the numbers themselves, in the type of the scales.

        Examples:
          >>> FixedPoint(jnp.asarray([[3, 0]], jnp.int16), jnp.full(1, 0.5)).numbers().tolist()
          [[1.5, 0.0]]
        """
        x, scales = self.integers, self.scales
        return x.astype(scales.dtype) * scales.reshape(*scales.shape, *[1] * (x.ndim - scales.ndim))


def fixed_point(x: jax.Array, noise: jax.Array | None = None) -> FixedPoint:
    r"""Round numbers to multiples of one power of two for each row, at most a 16384th of its largest number.

    With noise they are rounded up or down by chance, so that the mean is the number itself. Without they are rounded to
    the nearest. Numbers that come from a `FixedPoint` stay the same. A row in which a number is not finite is NaN
    afterwards. Integers have no derivative, so a derivative is refused.

    Args:
      x: a stack, `[N, d1, .., dk]`, of float32 or float64.
      noise: uniform numbers of 16 bits, `uint16`, of the same shape; or None.

    Raises:
      TypeError: where `jax.grad` or another transformation asks for a derivative.

    Examples:
      >>> rounded = fixed_point(jnp.asarray([[[1.0, -0.3], [0.0, 3.0]]]))
      >>> rounded.integers.tolist(), (1 / rounded.scales).tolist()
      ([[[16384, -4915], [0, 24576]]], [[16384.0, 8192.0]])
      >>> rounded.numbers().tolist()
      [[[1.0, -0.29998779296875], [0.0, 3.0]]]
    """
    x = _without_derivative(x)
    rest = tuple(range(1 if x.ndim == 2 else 2, x.ndim))
    largest = jnp.max(jnp.abs(x), axis=rest, keepdims=True)
    _, exponent = jnp.frexp(largest)
    scales = jnp.ldexp(jnp.ones_like(largest), jnp.maximum(exponent - _BITS, jnp.finfo(x.dtype).minexp))
    parts = x / scales
    whole = jnp.floor(parts)
    drawn = 0.5 if noise is None else (noise.astype(x.dtype) + 0.5) / 2**16
    whole = whole + (parts - whole + drawn >= 1)  # the sum of all three would be rounded, and an integer could change
    integers = jnp.clip(whole, 1 - 2**_BITS, 2**_BITS - 1).astype(jnp.int16)
    return FixedPoint(integers, jnp.squeeze(jnp.where(jnp.isfinite(largest), scales, jnp.nan), rest))


@jax.custom_jvp
def _without_derivative(x: jax.Array) -> jax.Array:
    return x


@functools.partial(_without_derivative.defjvp, symbolic_zeros=True)
def _refused(primals: tuple[jax.Array], tangents: tuple[Any]) -> tuple[jax.Array, Any]:
    if isinstance(tangents[0], jax.custom_derivatives.SymbolicZero):
        return primals[0], tangents[0]
    raise TypeError(
        "A derivative through a momentum in fixed point is asked for, and integers have none. For a derivative through "
        "updates leave memory= out, or pass memory=precond.Memory(entries=False)."
    )

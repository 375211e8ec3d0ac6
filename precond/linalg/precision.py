"""Choose the precision in which matrices are multiplied, by a value and by a context in which it is used."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["Precision", "computed_in", "computing_in", "dot_precision", "precision"]

DotPrecision = lax.Precision | lax.DotAlgorithmPreset

_CURRENT: contextvars.ContextVar[DotPrecision] = contextvars.ContextVar("precision", default=lax.Precision.HIGHEST)
_BELOW_FLOAT32 = {
    lax.Precision.DEFAULT,
    lax.Precision.HIGH,
    lax.DotAlgorithmPreset.DEFAULT,
    lax.DotAlgorithmPreset.TF32_TF32_F32,
    lax.DotAlgorithmPreset.BF16_BF16_F32,
    lax.DotAlgorithmPreset.BF16_BF16_F32_X3,
    lax.DotAlgorithmPreset.BF16_BF16_F32_X9,  # by its definition exact, but an H200 computes TF32 instead (jax 0.11)
    lax.DotAlgorithmPreset.BF16_BF16_BF16,
    lax.DotAlgorithmPreset.F16_F16_F32,
    lax.DotAlgorithmPreset.F16_F16_F16,
}


class Precision(NamedTuple):
    """Hold the arguments of `precond.precision`, which makes it."""

    statistics: DotPrecision = lax.Precision.HIGHEST
    roots: DotPrecision = lax.Precision.HIGHEST
    projections: DotPrecision | None = None


def precision(
    *,
    statistics: DotPrecision = lax.Precision.HIGHEST,
    roots: DotPrecision = lax.Precision.HIGHEST,
    projections: DotPrecision | None = None,
) -> Precision:
    """Choose the precision in which the engine multiplies; by default it is the dtype's own but for one case.

    On a TPU gradients are multiplied with roots and bases in three passes of bfloat16 (`HIGH`), not in six. The error
    of 17 units of rounding, 2e-6, is far below that of a root or a basis, and the products take half the time. So are
    the angles of `precond.roots.rotations`, whose errors are corrected at full precision afterwards.

    It may be one of the presets of `jax.lax.DotAlgorithmPreset` that emulate float32 on a GPU's tensor cores. On an
    H200 those that are as exact as float32 are not faster (docs/accelerators.md). A device that does not have a preset
    says so when the program is compiled. The exception is BF16_BF16_F32_X9, in place of which an H200 computes TF32.
    `HIGH` is three passes of bfloat16 on a TPU, and one pass of TF32 on a GPU.

    States are float32 or wider in any case (but for `precond.Memory`), and residuals are measured at the highest
    precision. By the definitions of the presets the errors are (products of 256 x 256, in units of rounding
    relative to $|A| |B|$; roots of 128 x 128)::

        algorithm            error of a product   of A^(-1/4) by composite(), condition 1e4
        float32                     2.2               1.6e-5
        BF16_BF16_F32_X9            1.1               1.0e-5
        BF16_BF16_F32_X6            1.1               1.0e-5
        TF32_TF32_F32_X3            2.4               2.1e-5
        BF16_BF16_F32_X3             17               6.0e-4
        TF32_TF32_F32              1000               4.3e-2

    Args:
      statistics: the precision of products of gradients with themselves. Anything that is worse than float32 on some
        device is refused, since TF32's error in a factor is a thousand times the ridge.
      roots: the precision of the refresh of roots and bases.
      projections: the precision of products of gradients with roots and bases. None is `HIGHEST`, but `HIGH` on a TPU
        if no array is wider than float32.

    Returns:
      A value for `precision=` of `precond.scale_by_kronecker`.

    Raises:
      ValueError: for statistics in less than float32.
      TypeError: for anything but a precision, such as its name.

    Examples:
      >>> emulated = lax.DotAlgorithmPreset.TF32_TF32_F32_X3
      >>> policy = precision(roots=emulated, projections=lax.Precision.HIGH)
      >>> precision(statistics=lax.Precision.DEFAULT)
      Traceback (most recent call last):
      ...
      ValueError: statistics=DEFAULT: statistics need float32 or more; use jax.lax.Precision.HIGHEST.
    """
    for name, value in (("statistics", statistics), ("roots", roots), ("projections", projections)):
        if not isinstance(value, DotPrecision) and not (name == "projections" and value is None):
            raise TypeError(f"{name}={value!r}: must be a jax.lax.Precision, such as jax.lax.Precision.HIGHEST.")
    if statistics in _BELOW_FLOAT32:
        raise ValueError(
            f"statistics={statistics.name}: statistics need float32 or more; use jax.lax.Precision.HIGHEST."
        )
    return Precision(statistics, roots, projections)


@contextlib.contextmanager
def computing_in(dots: DotPrecision) -> Iterator[None]:
    """Multiply matrices in this precision in everything that is traced inside this context.

    Args:
      dots: a `jax.lax.Precision` or a `jax.lax.DotAlgorithmPreset`.

    Examples:
      >>> with computing_in(lax.Precision.HIGH):
      ...     dot_precision().name
      'HIGH'
    """
    token = _CURRENT.set(dots)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def computed_in(dots: DotPrecision | None, work: Callable[..., Any], *args: Any) -> Any:
    """Return `work(*args)`, whose matrices are multiplied in a precision.

    Args:
      dots: a `jax.lax.Precision` or a `jax.lax.DotAlgorithmPreset`. None is `HIGHEST`, but `HIGH` on a TPU if no array
        is wider than float32.
      work: a function of trees of arrays.
      args: the arguments of this function.

    Examples:
      >>> computed_in(lax.Precision.HIGH, lambda: dot_precision().name)
      'HIGH'
    """

    def at(precision: DotPrecision) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with computing_in(precision):
                return work(*args)

        return run

    if dots is None and any(jnp.result_type(x) in (jnp.float64, jnp.complex128) for x in jax.tree.leaves(args)):
        dots = lax.Precision.HIGHEST
    if dots is not None:
        return at(dots)(*args)
    return lax.platform_dependent(*args, tpu=at(lax.Precision.HIGH), default=at(lax.Precision.HIGHEST))


def dot_precision() -> DotPrecision:
    """Return the precision of the innermost `computing_in`.

    Examples:
      >>> dot_precision().name
      'HIGHEST'
    """
    return _CURRENT.get()

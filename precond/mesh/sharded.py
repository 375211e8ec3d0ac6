"""Say how stacks are divided over devices, by the value that `axis=` takes if a name is not enough."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import optax

from precond.arguments import check_floating, check_number, check_transformation, check_whole, described

__all__ = ["ByCost", "Sharded", "as_sharded", "by_cost", "sharded"]

_MULTIPLE = 8  # 1, 2, 4 and 8 devices divide it, which are the usual numbers in one machine


class ByCost(NamedTuple):
    """Say that cost decides what is gathered; `precond.by_cost` makes it, and documents its fields."""

    memory: float
    flops_per_byte: float


@described()
def by_cost(memory: float, *, flops_per_byte: float = 1000.0) -> ByCost:
    r"""Gather roots where that is cheaper than to gather directions, and memory allows it: for `sharded(roots=)`.

    With directions gathered over $n_d$ devices and roots over $n_r$ (all of the axes, some, or none), a device receives
    and computes in a step, in the mean and counted in bytes,

    $$D \Big(1 - \frac{1}{n_d}\Big) + \frac{R}{n_d K} \Big(1 - \frac{1}{n_r}\Big) + \frac{A}{n_d f}$$

    where D are the directions' bytes, R the roots', K the steps between two refreshes, and A the operations in which
    each matrix of the roots multiplies its block once. It keeps $1 / n_d$ of roots, momentum and second moments. Of the
    choices that keep no more than `memory` beyond the part $1 / (n_d n_r)$, the cheapest is taken. At equal cost,
    directions are gathered. Only shapes, the schedule and the mesh decide, and the choice changes no number.

    Args:
      memory: the number of bytes that a device may keep beyond those that it keeps if directions are gathered. With 0,
        directions are gathered, which is the default of `precond.sharded`.
      flops_per_byte: f, the number of operations that a device does in the time in which it receives a byte. The
        default belongs to 5e13 operations and 5e10 bytes a second.

    Raises:
      ValueError, TypeError: for a negative number, less than one operation, or anything but a number.

    Examples:
      >>> sharded("data", roots=by_cost(2e9)).roots
      ByCost(memory=2000000000.0, flops_per_byte=1000.0)
    """
    check_number("memory", memory, 0, math.inf)
    check_number("flops_per_byte", flops_per_byte, 1, math.inf)
    return ByCost(memory, flops_per_byte)


class Sharded(NamedTuple):
    """Say how stacks are divided over devices; `precond.sharded` makes it, and documents its fields."""

    axis: tuple[str, ...] | None
    multiple: int
    gather_dtype: Any
    rounding: optax.GradientTransformation | None
    roots: tuple[str, ...] | ByCost
    gradients: tuple[str, ...]


@described()
def sharded(
    axis: str | Sequence[str] | None,
    *,
    multiple: int | None = None,
    gather_dtype: jax.typing.DTypeLike | None = None,
    rounding: optax.GradientTransformation | None = None,
    roots: str | Sequence[str] | ByCost = (),
    gradients: str | Sequence[str] = (),
) -> Sharded:
    """Say how stacks are divided over devices, as a value for `axis=` if a name is not enough.

    Args:
      axis: the name of a mesh axis, or several, over which the leading axis of every stack is divided; None divides
        nothing. With a `multiple`, its checkpoints can still be restored on several devices.
      multiple: the number to a multiple of which stacks are padded with blocks of zeros. It must be a multiple of the
        number of devices, but it must not change with them: a run that moves to another number of devices keeps its
        `multiple`, and its checkpoints fit. None is 8 with an axis and 1 without.
      gather_dtype: the dtype in which directions are gathered, which rounds them once. None is the widest dtype of the
        gradients; then nothing is lost, because updates have the gradients' dtype.
      rounding: a transformation of stacks that rounds directions before they are gathered, in place of a
        `gather_dtype`: `precond.transforms.stochastic_rounding()`.
      roots: the axes over which roots are gathered when they are refreshed, so that directions are not gathered over
        them in every step; or `precond.by_cost`, which chooses them. By default there are none, since no other choice
        keeps as little memory. Statistics and refreshes are divided as before. Along these axes each device also keeps
        the roots, momentum and second moments of the others' blocks, and applies these roots itself.
      gradients: the mesh axes over which gradients are sharded, as those of fully sharded parameters are. Each device
        then sends the rows of its shard to the owners of their blocks, and directions return the same way; nothing is
        gathered. Rows travel over the axes that divide stacks, whichever axes are named here: a name only says that
        gradients are sharded. On a mesh with explicit axes the types of arrays say so. It has no meaning in the user's
        own `shard_map` or `pmap`, in which gradients are replicated.

    Raises:
      ValueError, TypeError: for a multiple that is not a positive integer, a dtype that is not a floating one, a dtype
        and a rounding at once, no axes, or roots over other axes.

    Examples:
      >>> sharded("data")
      Sharded(axis=('data',), multiple=8, gather_dtype=None, rounding=None, roots=(), gradients=())
      >>> sharded(("data", "model"), multiple=32, gather_dtype="bfloat16").gather_dtype
      dtype(bfloat16)
    """
    if axis is not None:
        axes = (axis,) if isinstance(axis, str) else axis
        if not isinstance(axes, Sequence) or not all(isinstance(a, str) for a in axes):
            raise TypeError(f"axis={axis!r}: pass the name of a mesh axis, several names, or None.")
        if not axes or "" in axes:
            raise ValueError(f"axis={axis!r}: pass the name of a mesh axis, several names, or None.")
        if len(set(axes)) < len(axes):
            raise ValueError(f"axis={axis!r} names a mesh axis twice: name each once.")
        axis = tuple(axes)
    if not isinstance(roots, ByCost):
        roots = (roots,) if isinstance(roots, str) else tuple(roots)
    if not isinstance(roots, ByCost) and not set(roots) <= set(axis or ()):
        raise ValueError(f"roots={roots}: these are gathered over some of the axes {axis or ()} that divide stacks.")
    gradients = (gradients,) if isinstance(gradients, str) else tuple(gradients)
    if not all(isinstance(a, str) for a in gradients):
        raise TypeError(f"gradients={gradients}: pass names of mesh axes.")
    if axis is not None and not isinstance(roots, ByCost):  # roots of consecutive blocks are gathered
        axis = (*(a for a in axis if a not in roots), *roots)
    if multiple is None:
        multiple = 1 if axis is None else _MULTIPLE
    check_whole("multiple", multiple, least=1)
    return Sharded(axis, multiple, _checked_dtype(gather_dtype, rounding), rounding, roots, gradients)


def _checked_dtype(gather_dtype: Any, rounding: Any) -> Any:
    if rounding is not None:
        check_transformation("rounding", rounding)
        if gather_dtype is not None:
            raise ValueError("gather_dtype= and rounding= both say how directions are rounded: give one of them.")
    if gather_dtype is None:
        return None
    if isinstance(gather_dtype, optax.GradientTransformation):
        raise TypeError("gather_dtype= takes a dtype, such as jnp.bfloat16: give a transformation as rounding=.")
    return check_floating("gather_dtype", gather_dtype)


def as_sharded(axis: str | Sequence[str] | Sharded | None) -> Sharded:
    """Make a `Sharded` of an argument `axis=`.

    Args:
      axis: the names of axes, or the result of `sharded`.

    Examples:
      >>> as_sharded("data") == sharded("data") == as_sharded(sharded("data"))
      True
    """
    return axis if isinstance(axis, Sharded) else sharded(axis)

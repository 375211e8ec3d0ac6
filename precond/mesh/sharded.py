"""The choice of axes: the value that `axis=` takes where a name alone does not say enough."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from precond.arguments import check_whole

__all__ = ["Sharded", "as_sharded", "sharded"]


class Sharded(NamedTuple):
    """How stacks are divided over devices; made by `precond.sharded`, whose arguments these are."""

    axis: tuple[str, ...] | None
    multiple: int
    wire: Any
    roots: tuple[str, ...]


def sharded(
    axis: str | Sequence[str] | None,
    *,
    multiple: int | None = None,
    wire: jax.typing.DTypeLike | optax.GradientTransformation | None = None,
    roots: str | Sequence[str] = (),
) -> Sharded:
    """How stacks are divided over devices: what `axis=` takes where a name alone does not say enough.

    Args:
      axis: the name of a mesh axis, or several, over which the leading axis of every stack is divided; None divides
        nothing (and with a `multiple` makes checkpoints that a divided run can go on from).
      multiple: stacks are padded to a multiple of it with blocks of zeros. It must be a multiple of the number of
        devices, and never depend on it: a run that moves to another number of devices keeps its `multiple`, and its
        checkpoints fit. None is 8 with an axis and 1 without.
      wire: the dtype in which directions are gathered from the devices, which rounds them once; None is the widest of
        the gradients (bfloat16 gradients: bfloat16, where nothing is lost, as updates have the gradients' dtype). Or
        the transformation of stacks that does it: `precond.stochastic_rounding()`.
      roots: those of the axes over which roots are gathered when they are refreshed, and not directions in every
        step. Statistics and refreshes are divided as before, but along these axes each device keeps the roots and
        all else of the blocks (momentum, second moments) of the others too, and applies them itself.

    Raises:
      ValueError, TypeError: for a multiple that is no positive integer, a wire that is no floating dtype, no axes,
        roots over other axes.

    Examples:
      >>> sharded("data")
      Sharded(axis=('data',), multiple=8, wire=None, roots=())
      >>> sharded(("data", "model"), multiple=32, wire="bfloat16").wire
      dtype(bfloat16)
    """
    if axis is not None:
        axes = (axis,) if isinstance(axis, str) else axis
        if not isinstance(axes, Sequence) or not all(isinstance(a, str) for a in axes):
            raise TypeError(f"axis={axis!r}: pass the name of a mesh axis, several names, or None.")
        if not axes:
            raise ValueError(f"axis={axis!r}: pass the name of a mesh axis, several names, or None.")
        axis = tuple(axes)
    roots = (roots,) if isinstance(roots, str) else tuple(roots)
    if not set(roots) <= set(axis or ()):
        raise ValueError(f"roots={roots}: these are gathered over some of the axes {axis or ()} that divide stacks.")
    if axis is not None:  # blocks that stand together are gathered
        axis = (*(a for a in axis if a not in roots), *roots)
    if multiple is None:
        multiple = 1 if axis is None else 8
    check_whole("multiple", multiple, least=1)
    if not (wire is None or isinstance(wire, optax.GradientTransformation)):
        wire = jnp.dtype(wire)
        if not jnp.issubdtype(wire, jnp.floating):
            raise TypeError(f"wire={wire.name}: directions travel as floating numbers, such as jnp.bfloat16.")
    return Sharded(axis, multiple, wire, roots)


def as_sharded(axis: str | Sequence[str] | Sharded | None) -> Sharded:
    """What `axis=` stands for.

    Args:
      axis: names, or what `sharded` made of them.

    Examples:
      >>> as_sharded("data") == sharded("data") == as_sharded(sharded("data"))
      True
    """
    return axis if isinstance(axis, Sharded) else sharded(axis)

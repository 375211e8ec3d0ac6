"""Name a stack by the shape of its blocks: `256x1024`, with an axis that is not preconditioned in brackets."""

from typing import Any

import jax

from precond.blocks.path_name import parts_of, path_name

__all__ = ["active_axes", "check_stacks", "stack_name"]

_PARAMETERS = {"kernel", "weight", "embedding", "bias", "scale", "w", "b"}


def stack_name(shape: tuple[int, ...], passive: tuple[int, ...] = ()) -> str:
    """Return the name under which `blocked` passes the stack of all blocks of one shape.

    Args:
      shape: the shape of a block.
      passive: the axes of the block that are not to be preconditioned.

    Examples:
      >>> stack_name((256, 1024))
      '256x1024'
      >>> stack_name((50000, 512), passive=(0,))
      '(50000)x512'
    """
    return "x".join(f"({d})" if i in passive else f"{d}" for i, d in enumerate(shape))


def active_axes(name: str, order: int) -> tuple[int, ...]:
    """Return the axes to precondition in a stack of this name.

    Args:
      name: the result of `stack_name`. Under any other name, all axes of a stack are active.
      order: the number of axes of a block.

    Examples:
      >>> active_axes("(50000)x512", order=2)
      (1,)
      >>> active_axes("kernel", order=2)
      (0, 1)
    """
    axes = name.split("x")
    passive = len(axes) == order and "(" in name
    return tuple(i for i in range(order) if not (passive and axes[i].startswith("(")))


def check_stacks(tree: Any) -> None:
    """Raise for parameters in place of stacks of blocks.

    A stack is `[N, d1, .., dk]`, so that it has at least two axes. A matrix counts as a stack only if its name is the
    shape of its blocks. An array with the name of a parameter, such as "kernel", never counts.

    Args:
      tree: a tree of arrays, or of anything with a shape.

    Raises:
      ValueError: for a parameter. The message names it, and says what to write.

    Examples:
      >>> check_stacks({"4x3": jax.ShapeDtypeStruct((8, 4, 3), "float32")})
      >>> check_stacks({"kernel": jax.ShapeDtypeStruct((4, 3), "float32")})
      Traceback (most recent call last):
      ...
      ValueError: 'kernel' of shape (4, 3) is a parameter, and no stack of blocks [N, d1, .., dk]: write ...
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name, shape = path_name(path), tuple(leaf.shape)
        last = parts_of(name)[-1]
        spelled = last.replace("(", "").replace(")", "") == stack_name(shape[1:])
        if len(shape) < 2 or (len(shape) == 2 and not spelled) or last in _PARAMETERS:
            raise ValueError(
                f"'{name}' of shape {shape} is a parameter, and no stack of blocks [N, d1, .., dk]: write "
                f"precond.blocked(precond.scale_by_kronecker(..)), which cuts parameters into blocks."
            )

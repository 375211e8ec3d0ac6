"""The name of a stack spells its block: `256x1024`, with an axis that is not preconditioned in brackets."""

__all__ = ["active_axes", "stack_name"]


def stack_name(shape: tuple[int, ...], passive: tuple[int, ...] = ()) -> str:
    """The key under which `blocked` hands on the stack of all blocks of one shape.

    Args:
      shape: of a block.
      passive: axes of the block that are not to be preconditioned.

    Examples:
      >>> stack_name((256, 1024))
      '256x1024'
      >>> stack_name((50000, 512), passive=(0,))
      '(50000)x512'
    """
    return "x".join(f"({d})" if i in passive else f"{d}" for i, d in enumerate(shape))


def active_axes(name: str, order: int) -> tuple[int, ...]:
    """The axes to precondition in a stack of this name.

    Args:
      name: from `stack_name`; any other name stands for a stack of which all axes are active.
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

"""Refuse stacks in the place of parameters or of single blocks, and the other way round."""

from typing import Any

from precond.blocks.block_info import BlockInfo, info_of

__all__ = ["refuse_divided", "refuse_single_blocks", "refuse_stacks"]


def refuse_stacks(name: str, blocks: Any) -> None:
    """Raise where a transformation of single blocks is given a stack of them.

    It would take all blocks of a device for one parameter.

    Args:
      name: the name of the function that made the transformation.
      blocks: the extra argument of its update.

    Raises:
      ValueError: saying where to put it.

    Examples:
      >>> from precond.blocks import BlockInfo
      >>> refuse_stacks("hyperball", BlockInfo(batch_axes=1))
      Traceback (most recent call last):
      ValueError: hyperball() takes single blocks, not stacks: put it into precond.per_block.
    """
    if info_of(blocks).batch_axes:
        raise ValueError(f"{name}() takes single blocks, not stacks: put it into precond.per_block.")


def refuse_single_blocks(name: str, blocks: Any) -> None:
    """Raise where a transformation of stacks is given single blocks or parameters inside of `precond.blocked`.

    Args:
      name: as in `refuse_stacks`.
      blocks: as in `refuse_stacks`.

    Raises:
      ValueError: saying where to put it.

    Examples:
      >>> from precond.blocks import BlockInfo
      >>> refuse_single_blocks("orthogonalize", BlockInfo(batch_axes=0))
      Traceback (most recent call last):
      ValueError: orthogonalize() takes whole stacks, but it was given single blocks or parameters. ...
    """
    if isinstance(blocks, BlockInfo) and blocks.batch_axes != 1:
        raise ValueError(
            f"{name}() takes whole stacks, but it was given single blocks or parameters. Put it into precond.blocked, "
            f"and not into precond.per_block."
        )


def refuse_divided(name: str, blocks: Any) -> None:
    """Raise where a transformation takes a number from all parameters, and each device has a part of their blocks.

    The number would be another one on each device.

    Args:
      name: as in `refuse_stacks`.
      blocks: as in `refuse_stacks`.

    Raises:
      ValueError: saying where to put it.

    Examples:
      >>> from precond.blocks import BlockInfo
      >>> from precond.collectives import SINGLE
      >>> refuse_divided("scale_by_nlcg", BlockInfo(collectives=SINGLE._replace(count=8)))
      Traceback (most recent call last):
      ValueError: scale_by_nlcg() takes numbers from all parameters, and each of 8 devices has a part of the blocks ...
    """
    if (devices := info_of(blocks).collectives.count) > 1:
        raise ValueError(
            f"{name}() takes numbers from all parameters, and each of {devices} devices has a part of the blocks here: "
            f"put it outside of precond.blocked, or leave axis= out."
        )

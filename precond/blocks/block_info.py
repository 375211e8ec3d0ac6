"""Tell the transformations of stacks about their blocks, by the one extra argument of ours, `blocks`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from precond.blocks.layout import Origin
from precond.collectives import SINGLE, Collectives

__all__ = ["BlockInfo", "info_of", "without_info"]


class BlockInfo(NamedTuple):
    """Tell a transformation of stacks about its blocks.

    `precond.blocked` passes it as the extra argument `blocks` to every transformation inside.

    Attributes:
      finite: whether each block's gradient is finite, `[N]` by stack; None means that all are.
      any_finite: whether a block of any stack, on any device, is finite. Otherwise nothing may advance. None
        means that some block is finite.
      gradients: the raw gradients, if `updates` are something else, such as their momentum; None means that
        `updates` are the raw gradients.
      factors: the factors that a model's layers captured in this step, by stack a tuple with an entry for each axis.
        None means that nothing was captured.
      captured_moments: the second moments of single examples' gradients that were captured with the factors, by stack.
      index: the place of each block in the whole stack, `[N]` by stack; None means 0 to N - 1.
      origins: the parameters that the blocks of the whole stack come from, in their order, by stack; None
        means that they are not known.
      batch_axes: the number of first axes that count blocks: 1 for stacks, 0 if every array is one block. The batch
        axes of a view are others: they are axes of a parameter.
      row_groups: the number of groups of equal length of which every stack consists. They are on as many devices or
        fewer.
      collectives: the collectives over the devices that have different blocks.
      root_collectives: the collectives over the devices that have the same blocks, and share the work of refreshing
        their roots.
    """

    finite: Any = None
    any_finite: jax.Array | None = None
    gradients: Any = None
    factors: Any = None
    captured_moments: Any = None
    index: Any = None
    origins: Mapping[str, tuple[Origin, ...]] | None = None
    batch_axes: int = 0
    row_groups: int = 1
    collectives: Collectives = SINGLE
    root_collectives: Collectives = SINGLE

    def advance(self, count: jax.Array) -> jax.Array:
        """Return the count of the next step, or the same count if no block is finite.

        Examples:
          >>> (
          ...     BlockInfo().advance(jnp.asarray(3)).item(),
          ...     BlockInfo(any_finite=False).advance(jnp.asarray(3)).item(),
          ... )
          (4, 3)
        """
        following = jnp.asarray(optax.safe_increment(count))
        return following if self.any_finite is None else jnp.where(self.any_finite, following, count)

    def local(self) -> "BlockInfo":
        """Keep the entries of the blocks whose roots this device refreshes.

        Examples:
          >>> BlockInfo(finite={"2": jnp.asarray([True])}).local().finite["2"].tolist()
          [True]
        """
        cut = self.root_collectives.local
        rows = {
            name: cut(getattr(self, name)) for name in ("finite", "gradients", "factors", "captured_moments", "index")
        }
        return self._replace(**rows)

    def raw(self, updates: Any) -> Any:
        """Return the raw gradients.

        Args:
          updates: the updates, which are returned if there are no others.

        Examples:
          >>> BlockInfo().raw({"2": 1.0}), BlockInfo(gradients={"2": 5.0}).raw({"2": 1.0})
          ({'2': 1.0}, {'2': 5.0})
        """
        return updates if self.gradients is None else self.gradients


_ARRAYS = ("finite", "any_finite", "gradients", "factors", "captured_moments", "index")
_STATIC = tuple(name for name in BlockInfo._fields if name not in _ARRAYS)


def _with_keys(info: BlockInfo) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
    arrays = tuple((jax.tree_util.GetAttrKey(name), getattr(info, name)) for name in _ARRAYS)
    return arrays, tuple(getattr(info, name) for name in _STATIC)


def _of_parts(static: Any, arrays: Any) -> BlockInfo:
    return BlockInfo(**dict(zip(_ARRAYS, arrays, strict=True)), **dict(zip(_STATIC, static, strict=True)))


# JAX may trace the arrays alone. Numbers of axes and groups choose the program.
jax.tree_util.register_pytree_with_keys(BlockInfo, _with_keys, _of_parts)


def info_of(blocks: Any) -> BlockInfo:
    """Return the `BlockInfo` that was passed as `blocks`, or an empty one.

    Outside of `precond.blocked` everyone can use this name: anything else that a caller passes under it is ignored.

    Args:
      blocks: the extra argument, or None.

    Examples:
      >>> (
      ...     info_of(None).batch_axes,
      ...     info_of("mine").batch_axes,
      ...     info_of(BlockInfo(batch_axes=1)).batch_axes,
      ... )
      (0, 0, 1)
    """
    return blocks if isinstance(blocks, BlockInfo) else BlockInfo()


def without_info(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the `BlockInfo` of the outer transformation, which describes other arrays than those inside.

    Args:
      extra: the extra arguments of an update.

    Examples:
      >>> (
      ...     without_info({"blocks": BlockInfo(), "value": 1.0}),
      ...     without_info({"blocks": "mine"}),
      ... )
      ({'value': 1.0}, {'blocks': 'mine'})
    """
    return {name: x for name, x in extra.items() if not isinstance(x, BlockInfo)}

"""Hold the arguments of `stacked`, and derive from them the layout and the places of a tree of parameters."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import optax

from precond.blocks import BlockSize, Layout, Views, layout_of
from precond.engine.choose_root_axes import choose_root_axes
from precond.mesh import Placement, Sharded, find_placement
from precond.trees import Tree

__all__ = ["Stacking"]


class Stacking(NamedTuple):
    """Hold the checked arguments of `stacked`."""

    inner: optax.GradientTransformationExtraArgs
    views: Views
    block_size: BlockSize
    skipped: float
    sharding: Sharded
    mesh: jax.sharding.Mesh | None

    def layout(self, tree: Tree) -> Layout:
        """Return the layout of a tree of parameters, or of gradients."""
        return layout_of(tree, self.views, self.block_size, self.sharding.multiple)

    @property
    def rounds(self) -> bool:
        """Whether directions are rounded by a transformation before they are gathered."""
        return self.sharding.rounding is not None

    def gather_dtypes(self, layout: Layout, leaves: Sequence[Any]) -> dict[str, Any]:
        """Return by stack the dtype in which directions are gathered."""
        if self.rounds:
            return {name: stack.dtype for name, stack in layout.stacks.items()}
        dtype = self.sharding.gather_dtype
        return layout.dtypes(leaves) if dtype is None else dict.fromkeys(layout.stacks, dtype)

    def placement(self, layout: Layout, tree: Tree) -> Placement | None:
        """Return where the stacks are sharded."""
        dtypes = self.gather_dtypes(layout, jax.tree.leaves(jax.eval_shape(lambda t: t, tree)))
        found = find_placement(self.sharding, self.mesh, tree)
        return choose_root_axes(found, self.sharding, self.inner, layout.stacks, dtypes)

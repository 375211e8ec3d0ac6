"""Group parameters that are read as tensors of one shape, so that they are cut together."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from precond.blocks.cuts import BlockSize, Cut, Region, cuts_of
from precond.blocks.stack_name import stack_name
from precond.blocks.view import Geometry
from precond.linalg.hidden_constants import hidden_constants

__all__ = ["Member", "TensorGroup", "group_members"]


class Member(NamedTuple):
    """Describe one parameter of a group.

    Attributes:
      leaf: the place of the parameter among the leaves.
      geometry: how it is read.
      row: the place of the leaf that is the last row of each matrix (a bias); None without one.
      row_geometry: how that leaf is read; None if its axes are read in their own order.
    """

    leaf: int
    geometry: Geometry
    row: int | None = None
    row_geometry: Geometry | None = None

    @property
    def tensor(self) -> tuple[int, ...]:
        """The shape of a tensor, its last row included."""
        rows, *others = self.geometry.tensor
        return rows + (self.row is not None), *others

    @property
    def batch(self) -> int:
        """The number of tensors."""
        return math.prod(self.geometry.shape) // math.prod(self.geometry.tensor)

    @property
    def leaves(self) -> list[int]:
        """The places of all leaves that it is made of."""
        return [self.leaf] if self.row is None else [self.leaf, self.row]

    def read(self, leaves: Sequence[jax.Array], dtype: Any) -> jax.Array:
        """Read the parameter as `[B, D1, .., Dk]`."""
        g = self.geometry
        tensors = leaves[self.leaf].astype(dtype).reshape(g.shape).transpose(g.order).reshape(-1, *g.tensor)
        if self.row is None:
            return tensors
        last = leaves[self.row].astype(dtype)
        if self.row_geometry is not None:
            last = last.transpose(self.row_geometry.order)
        return jnp.concatenate([tensors, last.reshape(-1, 1, g.tensor[1])], axis=1)

    def write(self, tensors: jax.Array) -> dict[int, jax.Array]:
        """Return the leaves again, up to their last reshape: the inverse of `read`."""
        out = {} if self.row is None else {self.row: tensors[:, -1]}
        if self.row is not None and self.row_geometry is not None:
            out[self.row] = _back(self.row_geometry, out[self.row])
        own = tensors if self.row is None else tensors[:, :-1]
        return out | {self.leaf: _back(self.geometry, own)}


def _back(g: Geometry, tensors: jax.Array) -> jax.Array:
    """Return tensors with the axes of the leaf that they were read from."""
    order = sorted(range(len(g.order)), key=g.order.__getitem__)
    return tensors.reshape([g.shape[a] for a in g.order]).transpose(order)


class TensorGroup(NamedTuple):
    """Describe parameters that are read as tensors of one shape and concatenated: `[B, D1, .., Dk]`.

    A group is cut as a whole, so that the length of the program does not grow with the depth of the network.

    Attributes:
      members: the parameters.
      regions: the regions, each with the name of the stack to which its blocks go.
      cuts: the cuts of each axis; the regions are their product.
    """

    members: tuple[Member, ...]
    regions: tuple[tuple[str, Region], ...]
    cuts: tuple[tuple[Cut, ...], ...]

    def gather(self, leaves: Sequence[jax.Array], dtype: Any) -> jax.Array:
        """Concatenate the tensors of the members."""
        rows = [member.read(leaves, dtype) for member in self.members]
        return rows[0] if len(rows) == 1 else jnp.concatenate(rows)

    def assemble(self, blocks: list[jax.Array], axis: int = 0) -> jax.Array:
        """Join the pasted regions, in the order of the product of the cuts, along one axis after the other."""
        if axis == len(self.cuts):
            return blocks[0]
        step = len(blocks) // len(self.cuts[axis])
        joined = [self.assemble(blocks[i : i + step], axis + 1) for i in range(0, len(blocks), step)]
        return joined[0] if len(joined) == 1 else jnp.concatenate(joined, axis=axis + 1)

    def scatter(self, tensors: jax.Array) -> dict[int, jax.Array]:
        """Return the leaves of the members by their places, up to their last reshape: the inverse of `gather`."""
        batches, pieces = [member.batch for member in self.members], [tensors]
        if len(batches) > 1:
            # The places are arguments, so that members of one shape are sliced by one kernel.
            starts = hidden_constants(list(itertools.accumulate([0, *batches[:-1]])))
            places = [[start, *[jnp.zeros_like(start)] * (tensors.ndim - 1)] for start in starts]
            sizes = [(n, *tensors.shape[1:]) for n in batches]
            pieces = [jax.lax.dynamic_slice(tensors, place, size) for place, size in zip(places, sizes, strict=True)]
        return {i: x for m, rows in zip(self.members, pieces, strict=True) for i, x in m.write(rows).items()}


def group_members(members: Sequence[Member], block_size: BlockSize) -> TensorGroup:
    """Return the group of parameters that are read as tensors of one shape.

    Args:
      members: the parameters, with equal tensors and equal passive axes.
      block_size: as in `precond.blocked`; passive axes are not cut.

    Examples:
      >>> group = group_members([Member(0, Geometry((20, 8), (0, 1), (20, 8), ()))], 8)
      >>> [name for name, _ in group.regions]
      ['8x8', '4x8']
    """
    tensor, passive = members[0].tensor, members[0].geometry.passive
    cuts = tuple(cuts_of(d, None if i in passive else block_size) for i, d in enumerate(tensor))
    regions = tuple((stack_name(tuple(c.size for c in region), passive), region) for region in itertools.product(*cuts))
    return TensorGroup(tuple(members), regions, cuts)

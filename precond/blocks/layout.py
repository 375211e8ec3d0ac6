"""Where every block of every parameter stands: worked out from shapes at trace time, never stored."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from precond.arguments import check_whole
from precond.blocks.names import stack_name
from precond.blocks.parameter import parameters_of
from precond.blocks.view import Geometry, Views, geometry
from precond.linalg.hidden_constants import hidden_constants

__all__ = ["BlockSize", "Layout", "Ragged", "layout_of", "ragged"]


class Part(NamedTuple):
    """A stretch of one axis cut into `count` pieces of `size`: an axis is its whole pieces, then a ragged rest."""

    start: int
    count: int
    size: int


Region = tuple[Part, ...]
"""One part an axis: a grid of equal blocks."""


class Ragged(NamedTuple):
    """A block size with a rest; made by `precond.ragged`, whose argument this is."""

    size: int


BlockSize = int | Ragged | None
"""How axes are cut into blocks: the longest side of a block, a `Ragged`, or None for no cut at all."""


def ragged(size: int) -> Ragged:
    """Cut axes into blocks of one size and a shorter rest, as the reference implementations of Shampoo do.

    Args:
      size: of the blocks: 2304 at 1024 is 1024, 1024 and 256.

    Returns:
      A value for `block_size=`, where a plain number cuts into equal pieces: 2304 at 1024 is three times 768.

    Raises:
      ValueError, TypeError: for anything but a positive integer.

    Examples:
      >>> [part.size for part in _parts(2304, ragged(1024))], [part.size for part in _parts(2304, 1024)]
      ([1024, 256], [768])
    """
    check_whole("size", size, least=1)
    return Ragged(size)


_TILE = 8  # pieces of unequal size are multiples of it, but for the last


def _parts(length: int, block_size: BlockSize) -> tuple[Part, ...]:
    longest = block_size.size if isinstance(block_size, Ragged) else block_size
    if longest is None or length <= longest:
        return (Part(0, 1, length),)
    size = longest
    if not isinstance(block_size, Ragged):
        pieces = -(-length // longest)
        even = -(-length // pieces)
        size = even if length % pieces == 0 else min(longest, -(-even // _TILE) * _TILE)
    whole, rest = divmod(length, size)
    parts = (Part(0, whole, size), Part(whole * size, 1, rest))
    return parts if rest else parts[:1]


def _cut(sheet: jax.Array, region: Region) -> jax.Array:
    """The blocks of a region, `[B, D1, .., Dk] -> [B count1 .. countk, size1, .., sizek]`."""
    for axis, part in enumerate(region, start=1):
        stop = part.start + part.count * part.size
        if (part.start, stop) != (0, sheet.shape[axis]):
            sheet = jax.lax.slice_in_dim(sheet, part.start, stop, axis=axis)
    grid = [d for part in region for d in (part.count, part.size)]
    k = len(region)
    order = [0, *range(1, 2 * k, 2), *range(2, 2 * k + 1, 2)]
    blocks = sheet.reshape(sheet.shape[0], *grid).transpose(order)
    return blocks.reshape(-1, *(part.size for part in region))


def _paste(blocks: jax.Array, region: Region) -> jax.Array:
    """The inverse of `_cut`, without the other regions."""
    k = len(region)
    blocks = blocks.reshape(-1, *(part.count for part in region), *(part.size for part in region))
    order = [0, *itertools.chain(*((i, k + i) for i in range(1, k + 1)))]
    return blocks.transpose(order).reshape(-1, *(part.count * part.size for part in region))


class Sheet(NamedTuple):
    """All parameters that are read as tensors of one shape, laid behind one another: `[B, D1, .., Dk]`.

    Cutting a sheet instead of each parameter keeps the program's length from growing with the network's depth.
    """

    members: tuple[tuple[int, Geometry], ...]  # index of the parameter among the leaves, how it is read
    regions: tuple[tuple[str, Region], ...]  # the stack to which the blocks of a region go
    parts: tuple[tuple[Part, ...], ...]  # by axis; the regions are their product

    def batches(self) -> list[int]:
        """The number of tensors in each member."""
        return [math.prod(g.shape) // math.prod(g.tensor) for _, g in self.members]

    def gather(self, leaves: Sequence[jax.Array], dtype: Any) -> jax.Array:
        """Lay the members behind one another."""
        rows = [
            leaves[i].astype(dtype).reshape(g.shape).transpose(g.order).reshape(-1, *g.tensor) for i, g in self.members
        ]
        return rows[0] if len(rows) == 1 else jnp.concatenate(rows)

    def assemble(self, blocks: list[jax.Array], axis: int = 0) -> jax.Array:
        """Join the pasted regions, in the order of the product of the parts, along one axis after the other."""
        if axis == len(self.parts):
            return blocks[0]
        step = len(blocks) // len(self.parts[axis])
        joined = [self.assemble(blocks[i : i + step], axis + 1) for i in range(0, len(blocks), step)]
        return joined[0] if len(joined) == 1 else jnp.concatenate(joined, axis=axis + 1)

    def scatter(self, sheet: jax.Array) -> dict[int, jax.Array]:
        """The members again, each in its own shape before it was read otherwise."""
        batches, out = self.batches(), {}
        pieces = [sheet]
        if len(batches) > 1:
            # At places that are arguments: members of one shape are then sliced by one kernel.
            starts = hidden_constants(list(itertools.accumulate([0, *batches[:-1]])))
            places = [[start, *[jnp.zeros_like(start)] * (sheet.ndim - 1)] for start in starts]
            sizes = [(n, *sheet.shape[1:]) for n in batches]
            pieces = [jax.lax.dynamic_slice(sheet, place, size) for place, size in zip(places, sizes, strict=True)]
        for (i, g), rows in zip(self.members, pieces, strict=True):
            back = sorted(range(len(g.order)), key=g.order.__getitem__)
            out[i] = rows.reshape([g.shape[a] for a in g.order]).transpose(back)
        return out


class Layout(NamedTuple):
    """How the leaves of a tree become stacks and come back.

    Attributes:
      viewed: for each leaf whether it has a view (the others stay outside).
      sheets: the leaves that have one.
      stacks: the shape and dtype of every stack by name, `[N, d1, .., dk]`.
      blocks: how many of the N are blocks; the rest are zeros that make N a multiple.
    """

    viewed: tuple[bool, ...]
    sheets: tuple[Sheet, ...]
    stacks: dict[str, jax.ShapeDtypeStruct]
    blocks: dict[str, int]

    def pack(self, leaves: Sequence[Any]) -> dict[str, jax.Array]:
        """Cut every viewed leaf into blocks and stack equal ones; float32 or wider.

        Args:
          leaves: in the order of the tree the layout was made from; those without a view are not touched.

        Returns:
          Stacks by name.
        """
        return self.stacked(self.cut(leaves))

    def cut(self, leaves: Sequence[Any]) -> list[list[jax.Array]]:
        """The blocks of every region of every sheet, in this order.

        Args:
          leaves: as given to `pack`.
        """

        def one(sheet: Sheet) -> list[jax.Array]:
            tensor = sheet.gather(leaves, self.stacks[sheet.regions[0][0]].dtype)
            return [_cut(tensor, region).astype(self.stacks[name].dtype) for name, region in sheet.regions]

        return [one(sheet) for sheet in self.sheets]

    def stacked(self, cut: list[list[jax.Array]]) -> dict[str, jax.Array]:
        """Equal blocks behind one another, and the zeros behind them.

        Args:
          cut: what `cut` gave.
        """
        rows: dict[str, list[jax.Array]] = {name: [] for name in self.stacks}
        for sheet, blocks in zip(self.sheets, cut, strict=True):
            for (name, _), block in zip(sheet.regions, blocks, strict=True):
                rows[name].append(block)
        for name, stack in self.stacks.items():
            if more := stack.shape[0] - self.blocks[name]:
                rows[name].append(jnp.zeros((more, *rows[name][0].shape[1:]), stack.dtype))
        return {n: r[0] if len(r) == 1 else jnp.concatenate(r) for n, r in rows.items()}

    def dtypes(self, leaves: Sequence[Any]) -> dict[str, Any]:
        """The widest dtype among the leaves of every stack."""
        found: dict[str, Any] = {}
        for sheet in self.sheets:
            for name, _ in sheet.regions:
                own = [leaves[i].dtype for i, _ in sheet.members]
                found[name] = jnp.result_type(found.get(name, own[0]), *own)
        return found

    def unpack(self, stacks: Any, leaves: Sequence[Any]) -> list[Any]:
        """The inverse of `pack`.

        Args:
          stacks: by name.
          leaves: as given to `pack`; they give the viewed leaves their shapes and dtypes, and stand for the others.

        Returns:
          The leaves, those with a view taken from the stacks.
        """
        return self.pasted(self.unstacked(stacks), leaves)

    def unstacked(self, stacks: Any) -> list[list[jax.Array]]:
        """The inverse of `stacked`.

        Args:
          stacks: by name.
        """
        out, taken = [], dict.fromkeys(stacks, 0)
        for sheet in self.sheets:
            out.append([])
            for name, region in sheet.regions:
                count = sum(sheet.batches()) * math.prod(part.count for part in region)
                start, taken[name] = taken[name], taken[name] + count
                rows = stacks[name]
                out[-1].append(rows if count == rows.shape[0] else jax.lax.slice_in_dim(rows, start, start + count))
        return out

    def pasted(self, cut: list[list[jax.Array]], leaves: Sequence[Any]) -> list[Any]:
        """The inverse of `cut`.

        Args:
          cut: blocks as it gave them.
          leaves: as given to `unpack`.
        """
        out = list(leaves)
        for sheet, blocks in zip(self.sheets, cut, strict=True):
            pasted = [_paste(rows, region) for (_, region), rows in zip(sheet.regions, blocks, strict=True)]
            for i, leaf in sheet.scatter(sheet.assemble(pasted)).items():
                out[i] = leaf.reshape(leaves[i].shape).astype(leaves[i].dtype)
        return out


def _sheet(members: list[tuple[int, Geometry]], g: Geometry, block_size: BlockSize) -> Sheet:
    cuts = [None if i in g.passive else block_size for i in range(len(g.tensor))]
    parts = tuple(_parts(d, cut) for d, cut in zip(g.tensor, cuts, strict=True))
    regions = tuple(
        (stack_name(tuple(part.size for part in region), g.passive), region) for region in itertools.product(*parts)
    )
    return Sheet(tuple(members), regions, parts)


def layout_of(tree: Any, views: Views, block_size: BlockSize, multiple: int = 1) -> Layout:
    """Work out the layout of a tree from its shapes, dtypes and paths.

    Args:
      tree: of arrays, or of anything with `shape` and `dtype`.
      views: from path and `Parameter` to a view or None. A parameter of size 0 has none.
      block_size: active axes longer than this are cut; None cuts nothing.
      multiple: stacks are padded to a multiple of it.

    Raises:
      ValueError: for a view that does not fit.

    Examples:
      >>> from precond.blocks.views import default_views
      >>> tree = {"kernel": jnp.zeros((20, 8)), "bias": jnp.zeros(8)}
      >>> {n: s.shape for n, s in layout_of(tree, default_views, block_size=8).stacks.items()}
      {'4x8': (1, 4, 8), '8x8': (2, 8, 8)}
    """
    found: dict[tuple[Any, ...], list[tuple[int, Geometry]]] = {}
    viewed, parameters = [], parameters_of(tree)
    for i, (name, leaf) in enumerate(parameters):
        view = views(name, leaf) if leaf.size else None
        viewed.append(view is not None)
        if view is not None:
            g = geometry(view, leaf.shape, f"'{name}'")
            found.setdefault((g.tensor, g.passive), []).append((i, g))
    sheets = tuple(_sheet(members, members[0][1], block_size) for members in found.values())
    counts: dict[str, tuple[int, tuple[int, ...], Any]] = {}
    for sheet in sheets:
        dtype = jnp.result_type(jnp.float32, *(parameters[i][1].dtype for i, _ in sheet.members))
        for name, region in sheet.regions:
            blocks = sum(sheet.batches()) * math.prod(part.count for part in region)
            before, _, other = counts.get(name, (0, (), dtype))
            block = tuple(part.size for part in region)
            counts[name] = before + blocks, block, jnp.promote_types(dtype, other)
    stacks = {n: jax.ShapeDtypeStruct((-(-c // multiple) * multiple, *b), d) for n, (c, b, d) in sorted(counts.items())}
    return Layout(tuple(viewed), sheets, stacks, {n: counts[n][0] for n in stacks})

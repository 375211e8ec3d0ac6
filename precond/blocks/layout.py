"""Lay out the blocks of all parameters in stacks. A layout is computed from shapes at trace time, and never stored."""

import difflib
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from precond.blocks.cuts import BlockSize, cut_blocks, paste_blocks
from precond.blocks.parameter import Parameter, Shapes, parameters_among, shapes_in
from precond.blocks.tensor_group import Member, TensorGroup, group_members
from precond.blocks.view import Geometry, Views, check_view, geometry

__all__ = ["CutGroups", "Layout", "Leaves", "Origin", "StacksByName", "layout_of"]

Leaves = Sequence[Any]
StacksByName = dict[str, jax.Array]
CutGroups = list[list[jax.Array]]
"""The blocks of every group and of every region of it, in this order."""


class Origin(NamedTuple):
    """Say which parameter some consecutive blocks of a stack come from.

    Attributes:
      path: the path of the parameter.
      row: the path of the parameter that is the last row of its matrices, or None.
      blocks: the number of blocks.
      whole: whether each block is a whole tensor of the parameter.
    """

    path: str
    row: str | None
    blocks: int
    whole: bool


class Layout(NamedTuple):
    """Turn the leaves of a tree into stacks, and back.

    Attributes:
      paths: the paths of the leaves.
      viewed: whether each leaf goes to a stack (the others stay outside).
      groups: the groups of the leaves that do.
      stacks: the shape and dtype of every stack by name, `[N, d1, .., dk]`.
      blocks: the number of blocks in every stack by name; the other rows are zeros that make N a multiple.
    """

    paths: tuple[str, ...]
    viewed: tuple[bool, ...]
    groups: tuple[TensorGroup, ...]
    stacks: dict[str, jax.ShapeDtypeStruct]
    blocks: dict[str, int]

    def pack(self, leaves: Leaves) -> StacksByName:
        """Cut every viewed leaf into blocks and stack equal ones, in float32 or wider.

        Args:
          leaves: the leaves in the order of the tree from which the layout was made. Leaves without a view are not
            read.

        Returns:
          The stacks by name.
        """
        return self.stack_blocks(self.cut(leaves))

    def cut(self, leaves: Leaves) -> CutGroups:
        """Cut every group into the blocks of its regions.

        Args:
          leaves: the leaves, as given to `pack`.
        """

        def one(group: TensorGroup) -> list[jax.Array]:
            tensors = group.gather(leaves, self.stacks[group.regions[0][0]].dtype)
            return [cut_blocks(tensors, region).astype(self.stacks[name].dtype) for name, region in group.regions]

        return [one(group) for group in self.groups]

    def stack_blocks(self, cut: CutGroups) -> StacksByName:
        """Concatenate equal blocks and append zero rows.

        Args:
          cut: the result of `cut`.
        """
        rows: dict[str, list[jax.Array]] = {name: [] for name in self.stacks}
        for group, blocks in zip(self.groups, cut, strict=True):
            for (name, _), block in zip(group.regions, blocks, strict=True):
                rows[name].append(block)
        for name, stack in self.stacks.items():
            if more := stack.shape[0] - self.blocks[name]:
                rows[name].append(jnp.zeros((more, *rows[name][0].shape[1:]), stack.dtype))
        return {n: r[0] if len(r) == 1 else jnp.concatenate(r) for n, r in rows.items()}

    def dtypes(self, leaves: Leaves) -> dict[str, Any]:
        """Return the widest dtype among the leaves of every stack."""
        found: dict[str, Any] = {}
        for group in self.groups:
            own = [leaves[i].dtype for member in group.members for i in member.leaves]
            for name, _ in group.regions:
                found[name] = jnp.result_type(found.get(name, own[0]), *own)
        return found

    def origins(self) -> dict[str, tuple[Origin, ...]]:
        """Return the origins of the blocks of every stack, in their order."""
        found: dict[str, list[Origin]] = {name: [] for name in self.stacks}
        for group in self.groups:
            for name, region in group.regions:
                grid = math.prod(cut.count for cut in region)
                found[name] += [
                    Origin(self.paths[m.leaf], None if m.row is None else self.paths[m.row], m.batch * grid, whole)
                    for m in group.members
                    for whole in [grid == len(group.regions) == 1]
                ]
        return {name: tuple(origins) for name, origins in found.items()}

    def unpack(self, stacks: Any, leaves: Leaves) -> list[Any]:
        """Return the leaves again: the inverse of `pack`.

        Args:
          stacks: the stacks by name.
          leaves: the leaves, as given to `pack`. Those with a view give shapes and dtypes; the others are returned
            unchanged.

        Returns:
          The leaves; those with a view are taken from the stacks.
        """
        return self.paste(self.unstack_blocks(stacks), leaves)

    def unstack_blocks(self, stacks: Any) -> CutGroups:
        """Return the blocks of each region: the inverse of `stack_blocks`.

        Args:
          stacks: the stacks by name.
        """
        out, taken = [], dict.fromkeys(stacks, 0)
        for group in self.groups:
            out.append([])
            for name, region in group.regions:
                count = sum(m.batch for m in group.members) * math.prod(cut.count for cut in region)
                start, taken[name] = taken[name], taken[name] + count
                rows = stacks[name]
                out[-1].append(rows if count == rows.shape[0] else jax.lax.slice_in_dim(rows, start, start + count))
        return out

    def paste(self, cut: CutGroups, leaves: Leaves) -> list[Any]:
        """Join the blocks of each leaf: the inverse of `cut`.

        Args:
          cut: the result of `unstack_blocks`.
          leaves: the leaves, as given to `unpack`.
        """
        out = list(leaves)
        for group, blocks in zip(self.groups, cut, strict=True):
            pasted = [paste_blocks(rows, region) for (_, region), rows in zip(group.regions, blocks, strict=True)]
            for i, leaf in group.scatter(group.assemble(pasted)).items():
                out[i] = leaf.reshape(leaves[i].shape).astype(leaves[i].dtype)
        return out


def layout_of(tree: Any, views: Views, block_size: BlockSize, multiple: int = 1) -> Layout:
    """Compute the layout of a tree from its shapes, dtypes and paths.

    Args:
      tree: a tree of arrays, or of anything with `shape` and `dtype`.
      views: a function from path and `Parameter` to a view or None. A parameter of size 0 has no view.
      block_size: the longest side of a block: longer active axes are cut; None cuts nothing.
      multiple: the number to a multiple of which stacks are padded.

    Raises:
      ValueError: for a view that does not fit.

    Examples:
      >>> from precond.blocks import View
      >>> from precond.blocks.views import as_views, default_views
      >>> joined = View((0, 1), row="bias")
      >>> tree = {"kernel": jnp.zeros((20, 8)), "bias": jnp.zeros(8)}
      >>> {n: s.shape for n, s in layout_of(tree, default_views, block_size=8).stacks.items()}
      {'4x8': (1, 4, 8), '8x8': (2, 8, 8)}
      >>> {
      ...     n: s.shape
      ...     for n, s in layout_of(tree, as_views([("kernel", joined)]), None).stacks.items()
      ... }
      {'21x8': (1, 21, 8)}
    """
    try:
        hash(views)
    except TypeError:  # such as views with a dictionary in them
        return _layout.__wrapped__(shapes_in(tree), views, block_size, multiple)
    return _layout(shapes_in(tree), views, block_size, multiple)


@functools.lru_cache(maxsize=64)  # a step asks for it several times, each time that it is traced
def _layout(shapes: Shapes, views: Views, block_size: BlockSize, multiple: int) -> Layout:
    parameters = parameters_among(shapes)
    groups = tuple(group_members(members, block_size) for members in _members(parameters, views))
    counts: dict[str, tuple[int, tuple[int, ...], Any]] = {}
    for group in groups:
        dtype = jnp.result_type(jnp.float32, *(parameters[i][1].dtype for m in group.members for i in m.leaves))
        for name, region in group.regions:
            blocks = sum(m.batch for m in group.members) * math.prod(cut.count for cut in region)
            before, _, other = counts.get(name, (0, (), dtype))
            counts[name] = before + blocks, tuple(cut.size for cut in region), jnp.promote_types(dtype, other)
    stacks = {n: jax.ShapeDtypeStruct((-(-c // multiple) * multiple, *b), d) for n, (c, b, d) in sorted(counts.items())}
    used = {i for group in groups for member in group.members for i in member.leaves}
    viewed = tuple(i in used for i in range(len(parameters)))
    return Layout(tuple(path for path, _ in parameters), viewed, groups, stacks, {n: counts[n][0] for n in stacks})


def _members(parameters: Sequence[tuple[str, Parameter]], views: Views) -> list[list[Member]]:
    """Return the parameters that have a view, grouped by the shape of their tensors."""
    places = {path: i for i, (path, _) in enumerate(parameters)}
    read = {i: views(path, leaf) for i, (path, leaf) in enumerate(parameters) if leaf.size}
    read = {i: view for i, view in read.items() if view is not None}
    for i, view in read.items():
        check_view(view, f"'{parameters[i][0]}'")
    matrix_of: dict[int, int] = {}  # the parameter of whose matrices each row is the last one
    for i, view in read.items():
        wanted = view.row or None
        row = None if wanted is None else places.get(wanted)
        if row is None:
            _check_absent(parameters[i][0], wanted, places)
            continue
        if row in read:
            raise ValueError(
                f"View.row='{view.row}' of '{parameters[i][0]}' has a view of its own: give None as its view, since a "
                f"parameter is either read by itself or as the last row of another."
            )
        if row in matrix_of:
            raise ValueError(
                f"View.row='{view.row}' is given for '{parameters[matrix_of[row]][0]}' and for '{parameters[i][0]}': a "
                f"parameter can be the last row of one other alone."
            )
        matrix_of[row] = i
    rows = {i: row for row, i in matrix_of.items()}
    found: dict[tuple[Any, ...], list[Member]] = {}
    for i, view in read.items():
        (path, leaf), row = parameters[i], rows.get(i)
        member = Member(i, geometry(view, leaf.shape, f"'{path}'"), row)
        if row is not None:
            _check_row(member, path, *parameters[row])
            member = member._replace(row_geometry=_row_geometry(member, view.row_axes, path, *parameters[row]))
        found.setdefault((member.tensor, member.geometry.passive), []).append(member)
    return list(found.values())


def _check_absent(path: str, row: str | None, places: Mapping[str, int]) -> None:
    """Raise if a parameter that is to be a last row is not there, and the same module has one of nearly its name."""
    module, _, name = (row or "").rpartition("/")
    siblings = [other for other in places if other.rpartition("/")[0] == module and other != path]
    if row and (near := difflib.get_close_matches(name, [x.rpartition("/")[2] for x in siblings], 1, 0.8)):
        meant = f"{module}/{near[0]}" if module else near[0]
        raise ValueError(f"View.row='{row}' of '{path}' names no parameter: did you mean '{meant}'?")


def _check_row(member: Member, path: str, row: str, leaf: Parameter) -> None:
    g = member.geometry
    if len(g.tensor) != 2 or leaf.size != member.batch * g.tensor[1]:
        raise ValueError(
            f"View.row='{row}' of shape {leaf.shape} does not fit as the last row of '{path}', which is read as "
            f"{member.batch} tensors of shape {g.tensor}: the view must have two axes, and the row one entry for each "
            f"column of each matrix."
        )


def _row_geometry(
    member: Member, columns: tuple[int, ...] | None, path: str, row: str, leaf: Parameter
) -> Geometry | None:
    """Return the geometry of the last row, or None if its axes are read in their own order."""
    if columns is None:
        return None
    batch = tuple(axis for axis in range(leaf.ndim) if axis not in columns)
    order, g = (*batch, *columns), member.geometry
    if sorted(order) != list(range(leaf.ndim)) or math.prod(leaf.shape[a] for a in columns) != g.tensor[1]:
        raise ValueError(
            f"View.row_axes={columns} of '{path}' are not the axes of '{row}', of shape {leaf.shape}, that are its "
            f"{g.tensor[1]} columns: name each of these once, from 0 on."
        )
    return None if order == tuple(range(leaf.ndim)) else Geometry(leaf.shape, order, g.tensor[1:], ())

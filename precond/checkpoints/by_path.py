"""Turn a state into a dictionary by the paths of parameters, which does not depend on their order."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from precond.arguments import check_arrays, check_known, described
from precond.blocks import (
    STARTS,
    Layout,
    Member,
    fingerprint,
    first_difference,
    hashed,
    layouts_of,
    leaves_of,
    reading_of,
    without_probes,
)
from precond.checkpoints.counts_in import counts_in
from precond.checkpoints.places import beside, named_leaves, on_host, places_in, stacks_in
from precond.trees import Tree

__all__ = ["Record", "by_path", "record_of", "rows_by_path", "shapes_of"]


class Record(NamedTuple):
    """Hold a state by parameter.

    Attributes:
      parameters: the arrays that are kept of each parameter, by path and by the name of their place in the state.
      others: the arrays that belong to no parameter, such as counts, by the name of their place.
    """

    parameters: dict[str, dict[str, Any]]
    others: dict[str, Any]


@described()
def by_path(tx: optax.GradientTransformation, params: Tree, state: optax.OptState) -> dict[str, dict[str, Any]]:
    """Return a state as a dictionary by the paths of parameters, for checkpoints that outlive a refactoring.

    Nothing in it depends on the order of parameters. Momentum and second moments have the shape of their parameter,
    however it is cut. Factors and roots are those of its blocks. `precond.checkpoints.adopt` makes a state of it again,
    and if the optimizer and the parameters have not changed, then the same state.

    Args:
      tx: the optimizer that made the state, from this library or around it.
      params: a tree of arrays, or of anything with shape and dtype.
      state: the state of these parameters.

    Returns:
      A dictionary of two. `"parameters"` has a dictionary for each path, and `"others"` what belongs to no parameter.
      All arrays are NumPy's.

    Raises:
      ValueError: for a state of other parameters, of another block size or of other views, with the first difference.

    Examples:
      >>> import jax.numpy as jnp, precond
      >>> tx = precond.muon(1e-3, block_size=2)
      >>> params = {"kernel": jnp.ones((4, 6)), "bias": jnp.ones(6)}
      >>> saved = by_path(tx, params, tx.init(params))
      >>> saved["parameters"]["kernel"]["0/stacks/stacks/0/momentum"].shape
      (4, 6)
    """
    check_arrays("params", params)
    check_known("by_path", state=state)
    layouts, shapes = layouts_of(tx, params), shapes_of(params)
    leaves = named_leaves(state)
    known = [fingerprint(layout) for layout in layouts]
    for prefix, block_ids in stacks_in(leaves).items():
        if int(on_host(leaves[f"{prefix}fingerprint"])) not in known:
            own = [layout for layout in layouts if set(layout.stacks) == set(block_ids)] or layouts
            raise ValueError(
                first_difference(block_ids, own[0], shapes) if own else "tx= cuts no parameters into blocks."
            )
    _check_names(leaves, named_leaves(jax.eval_shape(lambda tree: tx.init(tree), params)))
    record = record_of(leaves, shapes, layouts, lambda path: path)
    return {"parameters": record.parameters, "others": record.others}


def _check_names(found: Mapping[str, object], expected: Mapping[str, object]) -> None:
    """Raise unless a state has the arrays that an optimizer keeps."""
    names = [f"no '{name}'" for name in expected if name not in found]
    names += [f"'{name}', too" for name in found if name not in expected]
    if names:
        raise ValueError(
            f"state= is not of this optimizer, or of other parameters: it has {names[0]}. Give the optimizer and the "
            f"parameters that it was made with."
        )


def shapes_of(params: Tree) -> dict[str, tuple[int, ...]]:
    """Return the shapes of parameters by path.

    Args:
      params: a tree of arrays, or of anything with a shape.

    Examples:
      >>> shapes_of({"kernel": np.ones((4, 6))})
      {'kernel': (4, 6)}
    """
    return {path: tuple(np.shape(x)) for path, x in leaves_of(without_probes(params)).items()}


def record_of(
    leaves: dict[str, Any],
    shapes: dict[str, tuple[int, ...]],
    layouts: list[Layout],
    old_path: Callable[[str], str],
) -> Record:
    """Read a state by parameter, as far as these parameters are in it.

    Args:
      leaves: the leaves of the state, by name.
      shapes: the shapes of the parameters by path.
      layouts: the layouts of the parameters, by which entries of blocks find their places.
      old_path: a function from the path of a parameter to its path in the state.
    """
    stacks, places = stacks_in(leaves), places_in(leaves)
    new_path = {old_path(path): path for path in shapes}
    rows = {prefix: rows_by_path(block_ids, new_path) for prefix, block_ids in stacks.items()}
    record = Record({path: {} for path in shapes}, {})
    counts = counts_in(leaves, places)
    entries: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for name, x in leaves.items():
        at, own, known = places.get(name), beside(name, new_path), on_host(x)
        if at is not None and at.by_entry:
            entries.setdefault((at.prefix, at.place), {})[at.stack] = known
        elif at is not None:
            for path, which in rows[at.prefix][at.stack].items():
                record.parameters[path][name] = known[which]
        elif name in counts:
            for old, number in zip(counts[name], known, strict=True):
                if old in new_path:
                    record.parameters[new_path[old]][name] = np.asarray(number)
        elif own is not None:
            record.parameters[new_path[own[0]]][own[1]] = known
        elif not _is_of_layout(name, stacks):
            record.others[name] = known
    for prefix, block_ids in stacks.items():
        for path in shapes:
            mine = {stack: of[path] for stack, of in rows[prefix].items() if path in of}
            whose = {stack: block_ids[stack][which] for stack, which in mine.items()}
            record.parameters[path].update({f"{prefix}block_ids/{stack}": x for stack, x in whose.items()})
            for (of, place), arrays in entries.items():
                if of == prefix and mine and set(mine) <= set(arrays):
                    blocks = {stack: arrays[stack][which] for stack, which in mine.items()}
                    for other, x in _whole(path, whose, blocks, layouts):
                        record.parameters[other][place] = x.reshape(shapes[other])
    return record


def rows_by_path(block_ids: dict[str, np.ndarray], paths: Mapping[str, str]) -> dict[str, dict[str, np.ndarray]]:
    """Return for every stack which of its rows belong to each parameter.

    Args:
      block_ids: the block ids by stack.
      paths: the paths to return, by the paths in the state.

    Examples:
      >>> rows = np.asarray([[hashed("a"), 0], [hashed("b"), 0], [hashed("a"), 0]])
      >>> rows_by_path({"2": rows}, {"a": "new"})
      {'2': {'new': array([0, 2])}}
    """
    known = {hashed(old): path for old, path in paths.items()}
    found = {name: np.unique(rows[:, 0]) for name, rows in block_ids.items()}
    return {
        name: {known[x]: np.flatnonzero(block_ids[name][:, 0] == x) for x in map(int, of) if x in known}
        for name, of in found.items()
    }


def _is_of_layout(name: str, stacks: dict[str, Any]) -> bool:
    return any(name == f"{prefix}fingerprint" or name.startswith(f"{prefix}block_ids/") for prefix in stacks)


def _whole(
    path: str, block_ids: dict[str, np.ndarray], blocks: dict[str, np.ndarray], layouts: list[Layout]
) -> Iterator[tuple[str, np.ndarray]]:
    """Give a parameter, and the one that is the last row of its matrices, out of blocks, if it is read as it was."""
    readings = {int(reading) for rows in block_ids.values() for reading in rows[:, 1]}
    found = [(x, member) for x in layouts for member in _members(x, path) if readings == {reading_of(member)}]
    if found:
        layout, member = found[0]
        for leaf, x in member.write(_assembled(member, block_ids, blocks)).items():
            yield layout.paths[leaf], np.asarray(x)


def _members(layout: Layout, path: str) -> list[Member]:
    return [m for group in layout.groups for m in group.members if layout.paths[m.leaf] == path]


def _assembled(member: Member, block_ids: dict[str, np.ndarray], blocks: dict[str, np.ndarray]) -> Any:
    """Lay blocks of all sizes where they belong in the tensors of a parameter."""
    out = np.zeros((member.batch, *member.tensor), next(iter(blocks.values())).dtype)
    for stack, rows in block_ids.items():
        for start in np.unique(rows[:, STARTS:], axis=0):
            which = np.flatnonzero(np.all(rows[:, STARTS:] == start, axis=1))
            which = which[np.argsort(rows[which, STARTS - 1])]
            sides = blocks[stack].shape[1:]
            out[(slice(None), *(slice(a, a + n) for a, n in zip(start, sides, strict=True)))] = blocks[stack][which]
    return out

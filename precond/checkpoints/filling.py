"""Fill a new state, place by place, with the parts of an old state that fit."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from precond.blocks import Layout, fingerprint
from precond.checkpoints.by_path import Record, rows_by_path
from precond.checkpoints.counts_in import counts_in
from precond.checkpoints.moments import AVERAGES, SETTLED, Moments, is_moment
from precond.checkpoints.places import Stacked, beside, on_host, places_in, stacks_in
from precond.linalg import Packed, dense, packed

__all__ = ["Filling"]


class Filling:
    """Fill the arrays of a new state.

    Attributes:
      filled: the arrays by name; those into which nothing fits are as they were.
      asked: the paths of the parameters for which a moment of Adam was asked.
      uncorrected: the paths of the parameters whose averages start again beside a count of Optax that goes on.
    """

    def __init__(
        self,
        fresh: dict[str, Any],
        shapes: dict[str, tuple[int, ...]],
        layouts: list[Layout],
        record: Record,
        moments: Moments,
        classes: Mapping[str, type],
    ) -> None:
        """Fill the arrays.

        Args:
          fresh: the arrays of the new state by name.
          shapes: the shapes of the parameters by path.
          layouts: the layouts of the parameters.
          record: the record of the old state.
          moments: the moments that an Adam kept in the old state.
          classes: the classes of the states in the new state, as `classes_in` returns them.
        """
        self.filled, self.asked, self.uncorrected = dict(fresh), set[str](), set[str]()
        self._shapes, self._record, self._moments = shapes, record, moments
        self._block_ids = stacks_in(fresh)
        self._rows = {
            prefix: rows_by_path(block_ids, {p: p for p in shapes}) for prefix, block_ids in self._block_ids.items()
        }
        numbers = {fingerprint(layout): layout for layout in layouts}
        self._layouts = {prefix: numbers[int(on_host(fresh[f"{prefix}fingerprint"]))] for prefix in self._block_ids}
        self._changed = tuple(
            prefix
            for prefix in self._block_ids
            if int(on_host(record.others.get(name := f"{prefix}meaning", fresh[name]))) != int(on_host(fresh[name]))
        )  # whose numbers mean something else: only momentum is kept
        self._blocked = [x.removesuffix("stacks/fingerprint") for x in fresh if f"/{x}".endswith("/stacks/fingerprint")]
        self._packed: dict[tuple[str, str], dict[str, Any]] = {}
        self._counts: dict[str, dict[str, Any]] = {}  # the counts of averages taken over, by name and by parameter
        self._went: dict[str, dict[str, bool]] = {path: {} for path in shapes}
        self._kept: set[str] = set()  # names of arrays in which something is old
        places = places_in(fresh)
        self._of_optax = {name for name, kind in classes.items() if kind.__module__.partition(".")[0] == "optax"}
        self._own_counts = counts_in(fresh, places)
        rest = [name for name in fresh if name not in places and name not in self._own_counts]
        one = {name: own for name in rest if (own := beside(name, shapes)) is not None}
        self._arrays = places.keys() | one.keys() | self._own_counts.keys()
        for name, at in sorted(places.items(), key=lambda item: not item[1].by_entry):  # counts behind their averages
            self._fill_entries(name, at) if at.by_entry else self._fill_rows(name, at)
        self._mixed = self._incomplete(one)
        for name, (path, place) in one.items():
            self._fill_one(name, path, place)
        for name, paths in self._own_counts.items():
            self._fill_count(name, paths)
        for name in fresh.keys() - self._arrays:
            self._fill_other(name)

    def report(self) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]], tuple[str, ...]]:
        """Return which parameters were kept, which were kept in part, and which start again.

        A parameter that was kept in part has the names of the places that start again.
        """
        went = {path: of for path, of in self._went.items() if of}
        kept = tuple(path for path, of in went.items() if all(of.values()))
        anew = tuple(path for path, of in went.items() if not any(of.values()))
        left = [path for path in went if path not in kept and path not in anew]
        return kept, {path: tuple(name for name, ok in went[path].items() if not ok) for path in left}, anew

    def _note(self, name: str, place: str, path: str, value: Any) -> None:
        """Note whether something is kept of a parameter."""
        self._went[path][place] = value is not None
        if value is not None:
            self._kept.add(name)

    def _known(self, place: str, path: str) -> tuple[Any, bool]:
        """Return what is known of the entries of a parameter, and whether it is Adam's moment."""
        value = _fitting(self._record.parameters[path].get(place), self._shapes[path])
        if value is not None:
            changed = place.startswith(self._changed) and place.rpartition("/")[2] == "nu"
            return None if changed else value, False
        return _fitting(self._moments.at(place, path), self._shapes[path]), True

    def _fill_entries(self, name: str, at: Stacked) -> None:
        """Cut what is known of the entries of each parameter as the new state needs it."""
        self.filled[name] = x = np.array(on_host(self.filled[name]))
        for path, which in self._rows[at.prefix][at.stack].items():
            value, settled = self._known(at.place, path)
            if settled and is_moment(at.place):
                self.asked.add(path)
            self._note(name, at.place, path, value)
            if value is not None:
                rows = self._pack(at.prefix, at.place)[at.stack][which]
                x[which] = np.real(rows) if np.isrealobj(x) else rows
                count = self._moments_count(at.place, path) if settled else self._count(at, path)
                for parent in (name.rpartition("/")[0], at.place.rpartition("/")[0]):
                    self._counts.setdefault(f"{parent}/count", {})[path] = count

    def _moments_count(self, place: str, path: str) -> Any:
        """Return the count for a moment of Adam that is kept free of bias, where others keep it with theirs."""
        parent, _, last = place.rpartition("/")
        alone = last == "nu" and not any(name.startswith(f"{parent}/mu/") for name in self.filled)
        count = self._moments.counts[path]
        return count if alone or count == 0 or f"{parent}/count" in self._own_counts else SETTLED

    def _count(self, at: Stacked, path: str) -> Any:
        """Return how many steps an average of single blocks has seen, of those that a parameter was cut into before."""
        old, parent = self._record.parameters[path], at.place.rpartition("/")[0]
        stacks = [x.removeprefix(f"{at.prefix}block_ids/") for x in old if x.startswith(f"{at.prefix}block_ids/")]
        found = [np.max(old[f"{parent}/{stack}/count"]) for stack in stacks if f"{parent}/{stack}/count" in old]
        return max(found, default=None)

    def _pack(self, prefix: str, place: str) -> dict[str, np.ndarray]:
        """Return the stacks of what is known of all parameters at this place, and zeros for the rest."""
        if (prefix, place) not in self._packed:
            layout = self._layouts[prefix]
            known = [self._known(place, path)[0] for path in layout.paths]
            pairs = zip(known, layout.paths, strict=True)
            leaves = [np.zeros(self._shapes[path], np.float32) if x is None else np.asarray(x) for x, path in pairs]
            self._packed[prefix, place] = {name: np.asarray(x) for name, x in layout.pack(leaves).items()}
        return self._packed[prefix, place]

    def _fill_rows(self, name: str, at: Stacked) -> None:
        """Keep what belongs to whole blocks, where these are the same."""
        self.filled[name] = x = np.array(on_host(self.filled[name]))
        for path, which in self._rows[at.prefix][at.stack].items():
            old, now = self._record.parameters[path], self._block_ids[at.prefix][at.stack][which]
            was = old.get(f"{at.prefix}block_ids/{at.stack}")
            same = was is not None and np.array_equal(was[:, 1:], now[:, 1:]) and at.prefix not in self._changed
            value = _in_this_form(old, name) if same else None
            count = self._counts.get(name, {}).get(path)
            value = np.full(len(which), count) if value is None and count is not None else value
            value = _fitting(value, x[which].shape)
            self._note(name, name, path, value)
            if value is not None:
                x[which] = value

    def _incomplete(self, one: dict[str, tuple[str, str]]) -> tuple[str, ...]:
        """Return where M-FAC's windows are whose inner products have parameters in them that are not all there now."""
        found = []
        for name in (
            x for x in self.filled if f"/{x}".endswith("/gram") and f"{x[:-4]}known/path_hashes" in self.filled
        ):
            mark = f"{name[:-4]}known/path_hashes"
            same = np.shape(self._record.others.get(mark, 0)) == np.shape(self.filled[mark])
            windows = {x: own for x, own in one.items() if x.startswith(f"{name[:-4]}window/")}
            pairs = [(self._record.parameters[path].get(at), self.filled[x]) for x, (path, at) in windows.items()]
            if not same or any(_fitting(x, np.shape(like)) is None for x, like in pairs):
                found.append(f"{name[:-4]}window")
        return tuple(found)

    def _fill_one(self, name: str, path: str, place: str) -> None:
        """Keep an array that belongs to one parameter, as do the moments of parameters without a view."""
        value, shape = self._record.parameters[path].get(place), np.shape(self.filled[name])
        of_blocked = any(place.startswith(f"{blocked}otherwise/") for blocked in self._blocked)
        if value is None and of_blocked and is_moment(place):
            self.asked.add(path)
            if (value := self._moments.at(place, path)) is not None:
                count = self._moments_count(place, path)
                self._counts.setdefault(f"{place.rpartition('/')[0]}/count", {})[path] = count
        value = None if place.startswith(self._mixed) else _fitting(value, shape)
        self._note(name, place, path, value)
        if value is not None:
            self.filled[name] = value

    def _fill_count(self, name: str, paths: tuple[str, ...]) -> None:
        """Keep the counts of the parameters of which all is kept that they count; the other ones start from 0."""
        self.filled[name] = x = np.array(on_host(self.filled[name]))
        parent = name.removesuffix("count")
        for i, path in enumerate(paths):
            value = self._counts.get(name, {}).get(path, self._record.parameters[path].get(name))
            all_there = all(ok for place, ok in self._went[path].items() if place.startswith(parent))
            value = _fitting(value, ()) if all_there else None
            self._note(name, name, path, value)
            x[i] = 0 if value is None else value

    def _fill_other(self, name: str) -> None:
        """Keep a count, or another array that belongs to no parameter, unless something beside it starts again."""
        if f"/{name}".endswith("/known/path_hashes") or name in (f"{prefix}meaning" for prefix in self._block_ids):
            return  # of the new state
        parent = "".join(name.rpartition("/")[:2])
        beside_it = [x for x in self.filled if x.startswith(parent) and x != name]
        value = self._record.others.get(name)
        if name in self._counts:
            value = max((x for x in self._counts[name].values() if x is not None), default=value)
        elif value is None and name.endswith("count") and not beside_it:
            value = self._moments.count  # of a schedule
        fields = {x.removeprefix(parent).partition("/")[0] for x in beside_it if x in self._arrays}
        old = {x.removeprefix(parent).partition("/")[0] for x in beside_it if x in self._kept}
        value = _fitting(value, np.shape(self.filled[name]))
        if value is not None and fields <= old:
            self.filled[name] = value
            if parent in self._of_optax and name == f"{parent}count" and np.max(value) > 0:
                self.uncorrected |= {path for path, of in self._went.items() if _starts_again(parent, of)}


def _starts_again(parent: str, went: dict[str, bool]) -> bool:
    """Return whether an average of a parameter that a count would free of its bias starts again."""
    return any(
        place.startswith(parent) and place.removeprefix(parent).partition("/")[0] in AVERAGES and not ok
        for place, ok in went.items()
    )


def _in_this_form(old: Mapping[str, Any], name: str) -> Any:
    """Return what was kept under a name, from all entries of symmetric matrices or from their triangles."""
    whole, _, part = name.rpartition("/")
    if part in Packed._fields and whole in old:
        return on_host(getattr(packed(jnp.asarray(old[whole])), part))
    if name not in old and f"{name}/rectangle" in old:
        diagonal = old.get(f"{name}/diagonal")
        rectangle = jnp.asarray(old[f"{name}/rectangle"])
        return on_host(dense(Packed(rectangle, None if diagonal is None else jnp.asarray(diagonal))))
    return old.get(name)


def _fitting(value: Any, shape: tuple[int, ...]) -> Any:
    """Return what is known if it has this shape, else None."""
    return value if value is not None and np.shape(value) == shape else None

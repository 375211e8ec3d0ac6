"""Report what a run will cost: to a program, in print, or in seconds."""

import json
import math
from typing import NamedTuple

from precond.planning.views_of import Readings

__all__ = ["Plan", "Stack", "Work"]


class Stack(NamedTuple):
    """Hold the numbers of blocks of one shape.

    Attributes:
      shape: the shape of a block, as the stack is named; an axis without a factor is in brackets.
      blocks: the number of blocks, on all devices.
      padding: blocks of zeros that make the number divisible.
    """

    shape: str
    blocks: int
    padding: int

    @property
    def waste(self) -> float:
        """The padding's part of the whole stack."""
        return self.padding / (self.blocks + self.padding)


class Work(NamedTuple):
    """Hold counts of floating-point operations: of matrix products, of decompositions, and of all else, by number."""

    products: int = 0
    decompositions: int = 0
    elementwise: int = 0


class Plan(NamedTuple):
    """Hold what `precond.plan` found; all fields but `parameters` and `stacks` are of one device.

    Attributes:
      devices: the number of devices.
      parameters: how many numbers the model has.
      stacks: the stacks of blocks.
      bytes: the bytes of the state in "statistics", "roots", "momentum" (with second moments) and "rest".
      moved: bytes of the state, the gradients and the updates, each read or written once: what a step moves at least,
        but for roots that are not due.
      work: the work of a step in "statistics", "application" and "rest"; of the refresh "at once" (of all roots, in one
        step), in the "mean" of all steps, and "in turns" (the costliest step of `stagger=True`); and of what is done
        the "first" time alone.
      periods: steps between two refreshes of a root, if there are roots.
      staggered: whether it is refreshed in turns.
      wire: bytes received in a step, by collective; without the gradients' own.
      loops: how many loops have a length that is not known; they count as one turn.
      views: how each parameter is read, as `precond.views_of` says.
    """

    devices: int
    parameters: int
    stacks: tuple[Stack, ...]
    bytes: dict[str, int]
    moved: int
    work: dict[str, Work]
    periods: tuple[int, ...]
    staggered: bool
    wire: dict[str, int]
    loops: int
    views: Readings = Readings()

    def seconds(
        self,
        *,
        flops_per_s: float,
        decomposition_flops_per_s: float | None = None,
        wire_bytes_per_s: float | None = None,
        memory_bytes_per_s: float | None = None,
    ) -> dict[str, float]:
        """Return the time of a step on one device if nothing overlaps: each amount divided by its rate.

        Args:
          flops_per_s: the speed of matrix products, measured in the precision that they have here.
          decomposition_flops_per_s: the speed of decompositions, for as many matrices as are due; it is far below that
            of products.
          wire_bytes_per_s: received by one device; None leaves it out.
          memory_bytes_per_s: the speed of the memory; None leaves it out.

        Returns:
          Seconds for "statistics", "application", "refresh" (in turns if that is how, else the mean), and for "wire"
          and "memory" where their rates are given. Operations by number wait for memory, and are not counted here.

        Raises:
          ValueError: for a rate that is not positive; if something is decomposed and no rate for it is given.

        Examples:
          >>> work = dict.fromkeys(("statistics", "application", "mean"), Work(products=1000))
          >>> Plan(1, 1, (), {}, 0, work, (), False, {}, 0).seconds(flops_per_s=1e3)
          {'statistics': 1.0, 'application': 1.0, 'refresh': 1.0}
        """
        rates = (flops_per_s, decomposition_flops_per_s, wire_bytes_per_s, memory_bytes_per_s)
        for name, rate in zip(
            ("flops_per_s", "decomposition_flops_per_s", "wire_bytes_per_s", "memory_bytes_per_s"), rates, strict=True
        ):
            if rate is not None and not rate > 0:
                raise ValueError(f"{name}={rate}: must be positive; what the device does in a second.")
        parts = {name: self.work[name] for name in ("statistics", "application")}
        parts["refresh"] = self.work["in turns" if self.staggered else "mean"]
        if decomposition_flops_per_s is None and any(work.decompositions for work in parts.values()):
            raise ValueError(
                "Matrices are decomposed here, which no device does as fast as it multiplies: give "
                "decomposition_flops_per_s= (on the command line --decomposition-flops-per-s), or a method that has "
                "products alone (precond.composite())."
            )
        slow = decomposition_flops_per_s or math.inf
        out = {name: work.products / flops_per_s + work.decompositions / slow for name, work in parts.items()}
        if wire_bytes_per_s is not None:
            out["wire"] = sum(self.wire.values()) / wire_bytes_per_s
        if memory_bytes_per_s is not None:
            out["memory"] = self.moved / memory_bytes_per_s
        return out

    def json(self) -> str:
        """Return everything as JSON.

        Examples:
          >>> Plan(1, 1, (Stack("2x2", 3, 1),), {}, 0, {}, (), False, {}, 0).json()[:52]
          '{"devices": 1, "parameters": 1, "stacks": [{"shape":'
        """
        stacks = [stack._asdict() | {"waste": stack.waste} for stack in self.stacks]
        work = {name: w._asdict() for name, w in self.work.items()}
        views = [row._asdict() | {"view": None if row.view is None else row.view._asdict()} for row in self.views]
        return json.dumps(self._asdict() | {"stacks": stacks, "work": work, "views": views})

    def table(self) -> str:
        """Say it in words and tables, without the operations that are done number by number.

        Examples:
          >>> print(
          ...     Plan(
          ...         1, 24, (Stack("2x2", 6, 2),), {"roots": 4096}, 0, {}, (), False, {}, 0
          ...     ).table()
          ... )
          24 parameters, 1 device
          <BLANKLINE>
          Stacks of blocks, on all devices            blocks     padding padding's share
          2x2                                              6           2           25.0%
          <BLANKLINE>
          Memory of the optimizer's state, on each device
          roots or bases                              4.1 kB
        """
        devices = f"{self.devices} device{'s' if self.devices > 1 else ''}"
        title = f"{_number(self.parameters, '')} parameters, {devices}"
        sections = [self._stacks(), self._memory(), self._operations(), self._received(), self._unknown()]
        return "\n\n".join([title, *("\n".join(lines) for lines in sections if lines)])

    def _stacks(self) -> list[str]:
        rows = [(s.shape, str(s.blocks), str(s.padding), f"{s.waste:.1%}") for s in self.stacks]
        heads = ("Stacks of blocks, on all devices", "blocks", "padding", "padding's share")
        return [_row(*row) for row in (heads, *rows)] if rows else []

    def _memory(self) -> list[str]:
        rows = [_row(_ROLES.get(role, role), _number(n, "B")) for role, n in self.bytes.items()]
        return ["Memory of the optimizer's state, on each device", *rows]

    def _operations(self) -> list[str]:
        if not self.work:
            return []
        rows = [(self._label(name), *(_number(x, "") for x in work[:2])) for name, work in self.work.items()]
        heads = ("Operations of a step, on each device", "products", "decompositions")
        marked = ["* is what this optimizer does."] if self.periods else []
        return [*(_row(*row) for row in (heads, *rows)), *marked]

    def _received(self) -> list[str]:
        rows = [_row(name, _number(n, "B")) for name, n in self.wire.items()]
        return ["Received by each device, in a step", *rows] if rows else []

    def _unknown(self) -> list[str]:
        return [f"{self.loops} loops, whose number of turns is not known, count as one turn."] if self.loops else []

    def _label(self, name: str) -> str:
        """Write one line of the operations in words."""
        period = f", every {' or '.join(map(str, self.periods))} steps" if self.periods else ""
        chosen = " *" if self.periods and name == ("in turns" if self.staggered else "at once") else ""
        return {
            "statistics": "update the statistics",
            "application": "apply the roots or bases",
            "rest": "everything else",
            "at once": f"refresh all at once{period}",
            "mean": "refresh, mean of all steps",
            "in turns": "refresh in turns, costliest step",
            "first": "the first refresh, once",
        }[name] + chosen


_ROLES = {
    "statistics": "statistics of gradients",
    "roots": "roots or bases",
    "momentum": "momentum and second moments",
    "rest": "parameters without blocks",
}


def _row(first: str, *others: str) -> str:
    if not others:
        return first
    widths = (12, 12, 16) if len(others) == 3 else (12, 16)
    return f"{first:<38}" + "".join(f"{x:>{w}}" for x, w in zip(others, widths, strict=False))


def _number(x: float, unit: str) -> str:
    """Write a number in three digits, with a prefix."""
    thousands = min(int(math.log10(x)) // 3, 6) if x >= 1 else 0
    digits = f"{x / 1000**thousands:.3g}"
    return f"{digits} {['', 'k', 'M', 'G', 'T', 'P', 'E'][thousands]}{unit}".strip()

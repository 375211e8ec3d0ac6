"""What a run will cost, as a value: to be read by a program, printed, or turned into seconds."""

import json
import math
from typing import NamedTuple

from precond.planning.views_of import Readings

__all__ = ["Plan", "Stack", "Work"]


class Stack(NamedTuple):
    """All blocks of one shape.

    Attributes:
      shape: as the stack is named; an axis without a factor in brackets.
      blocks: how many there are, on all devices.
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
    """Floating-point operations: of matrix products, of decompositions, and of all else, number by number."""

    products: int = 0
    decompositions: int = 0
    elementwise: int = 0


class Plan(NamedTuple):
    """What `precond.plan` found; everything of one device, but for `parameters` and `stacks`.

    Attributes:
      devices: how many.
      parameters: numbers in the model.
      stacks: of blocks.
      bytes: of the state: "statistics", "roots", "momentum" (with second moments), "rest".
      moved: bytes of the state, the gradients and the updates, each read or written once: what a step moves at least,
        but for roots that are not due.
      work: of a step in "statistics", "application" and "rest"; of the refresh "at once" (of all roots, in one step),
        in the "mean" of all steps, and "in turns" (the costliest step of `stagger=True`); and of what is done the
        "first" time alone.
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
        """The time of a step on one device, if nothing overlaps: what is done over the rate at which it is done.

        Args:
          flops_per_s: of matrix products, as measured in the precision they have here.
          decomposition_flops_per_s: of decompositions, of as many matrices as are due; far below that of products.
          wire_bytes_per_s: received by one device; None leaves it out.
          memory_bytes_per_s: of the memory; None leaves it out.

        Returns:
          Seconds for "statistics", "application", "refresh" (in turns if that is how, else the mean), and for "wire"
          and "memory" where their rates are given. Operations by number wait for memory, and are not counted here.

        Raises:
          ValueError: for a rate that is not positive; where something is decomposed and there is no rate for it.

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
        """All of it as JSON.

        Examples:
          >>> Plan(1, 1, (Stack("2x2", 3, 1),), {}, 0, {}, (), False, {}, 0).json()[:52]
          '{"devices": 1, "parameters": 1, "stacks": [{"shape":'
        """
        stacks = [stack._asdict() | {"waste": stack.waste} for stack in self.stacks]
        work = {name: w._asdict() for name, w in self.work.items()}
        views = [row._asdict() | {"view": None if row.view is None else row.view._asdict()} for row in self.views]
        return json.dumps(self._asdict() | {"stacks": stacks, "work": work, "views": views})

    def table(self) -> str:
        """What there is to be read, without what is done number by number.

        Examples:
          >>> print(Plan(1, 24, (Stack("2x2", 6, 2),), {"roots": 4096}, 0, {}, (), False, {}, 0).table())
          24 parameters, 1 device
          <BLANKLINE>
          stack                           blocks     padding       waste
          2x2                                  6           2       25.0%
          <BLANKLINE>
          bytes of a device
          roots                           4.1 kB
        """
        devices = f"{self.devices} device{'s' if self.devices > 1 else ''}"
        blocks = [[_number(self.parameters, "") + f" parameters, {devices}"]]
        if self.stacks:
            rows = [(s.shape, str(s.blocks), str(s.padding), f"{s.waste:.1%}") for s in self.stacks]
            blocks.append([_row("stack", "blocks", "padding", "waste"), *(_row(*row) for row in rows)])
        blocks.append(["bytes of a device", *(_row(name, _number(n, "B")) for name, n in self.bytes.items())])
        if self.work:
            head = _row("flops of a step, a device", "products", "decomposed")
            blocks.append(
                [head, *(_row(self._label(n), *(_number(x, "") for x in w[:2])) for n, w in self.work.items())]
            )
        if self.wire:
            rows = [_row(name, _number(n, "B")) for name, n in self.wire.items()]
            blocks.append(["received in a step, by a device", *rows])
        if self.loops:
            blocks.append([f"{self.loops} loops of unknown length count as one turn"])
        return "\n\n".join("\n".join(lines) for lines in blocks)

    def _label(self, name: str) -> str:
        if name not in ("at once", "mean", "in turns", "first"):
            return name
        every = f", every {' or '.join(map(str, self.periods))}" if name == "at once" and self.periods else ""
        chosen = " *" if self.periods and name == ("in turns" if self.staggered else "at once") else ""
        return f"refresh, {name}{every}{chosen}"


def _row(first: str, *others: str) -> str:
    return f"{first:<26}" + "".join(f"{x:>12}" for x in others) if others else first


def _number(x: float, unit: str) -> str:
    """In three digits, with a prefix."""
    thousands = min(int(math.log10(x)) // 3, 6) if x >= 1 else 0
    digits = f"{x / 1000**thousands:.3g}"
    return f"{digits} {['', 'k', 'M', 'G', 'T', 'P', 'E'][thousands]}{unit}".strip()

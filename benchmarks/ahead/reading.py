"""What a compiled program says of itself: cycles by part, collectives, kernels. Nothing is run.

A loop counts as often as its condition says. One whose end is known only at run time counts once: the loop of refreshes
does one turn in a usual step. Of the branches of a condition the costliest counts, but for one that runs at the first
step alone.
"""

import collections

from precond.scopes import part_of

from .hlo import parse, size

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
PARTS = {
    "statistics": "statistics",
    "application": "application",
    "refresh": "refresh",
    "turns": "refresh",
    "first": "first",
    "stacks": "packing",
}
"""From the scopes that the library names to the parts that are reported."""
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"),
    *("partition-id", "replica-id", "opt-barrier", "optimization-barrier"),
}
"""Instructions that are no kernels."""


def part(scope, around="unnamed"):
    """The part to which an instruction belongs.

    Args:
      scope: its names, from the outside in.
      around: the part of the loop or branch in which it stands.

    >>> (
    ...     part("jit(f)/optimizer/precond.turns/while/body/precond.refresh[2 of 8]/dot"),
    ...     part("jit(f)/optimizer/add"),
    ... )
    ('refresh', 'optimizer')
    >>> part("", "refresh"), part("jit(f)/tanh"), part("params['kernel']")
    ('refresh', 'model', 'unnamed')
    """
    found = PARTS.get(part_of(scope).partition("[")[0])
    if found is not None:
        return "first" if "precond.first" in scope else found
    if around in ("refresh", "first"):  # what the compiler has added, or what is shared with another place
        return around
    if "optimizer" in scope.split("/"):
        return "optimizer"
    return "model" if "/" in scope else around  # a name without a path is that of an argument, which is copied


class Reading:
    """A program, read from its entry on; fusions are leaves."""

    def __init__(self, text):
        self.program = parse(text)
        self.parts = collections.Counter()
        self.opcodes = collections.Counter()
        self.collectives = {}
        self._costs = {}
        self._run(self.program.entry, 1, "unnamed")

    def _run(self, name, times, around):
        """Count a computation that runs so many times within a part."""
        instructions = self.program.computations[name]
        for x in instructions:
            self.opcodes[x.opcode] += 1
            here = part(x.scope, around)
            if x.opcode == "while":
                turns = trips(self.program, instructions, x)
                for called in x.called("body", "condition"):
                    self._run(called, times * (1 if turns is None else turns), here)
            elif x.opcode == "conditional":
                self._run(self._usual(x), times, here)
            elif x.opcode == "call":
                for called in x.called("to_apply", "calls", "called_computations"):
                    self._run(called, times, here)
            else:
                self.parts[here] += times * x.cycles
            self._collect(x, instructions, times, here)

    def _usual(self, x):
        """The branch of a condition that a usual step takes, of those whose work is not the first step's."""
        keys = ("branch_computations", "true_computation", "false_computation")
        branches = [name for name in x.called(*keys) if name in self.program.computations]
        later = [name for name in branches if not self._is_first(name)]
        return max(later or branches, key=self._cost)

    def _is_first(self, name):
        return any(part(x.scope) == "first" for x in self.program.computations[name])

    def _cost(self, name):
        """Cycles of a computation and of all that it calls."""
        if name not in self._costs:
            keys = ("body", "branch_computations", "true_computation", "false_computation", "to_apply")
            total, instructions = 0, self.program.computations[name]
            for x in instructions:
                turns = trips(self.program, instructions, x) if x.opcode == "while" else 1
                inner = x.called(*keys) if x.opcode in ("while", "conditional", "call") else ()
                total += x.cycles + (1 if turns is None else turns) * sum(self._cost(c) for c in inner)
            self._costs[name] = total
        return self._costs[name]

    def _collect(self, x, instructions, times, here):
        """Note a collective: in line, between a start and a done, or in the fusions that hide it."""
        kind = x.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            hidden = kind != x.opcode
            done = next((y for y in instructions if x.name in y.operands and y.opcode.endswith("-done")), x)
            self._note((kind, x.name), kind, hidden, done.type if hidden else x.type, times, here)
        elif x.opcode in ("fusion", "async-start"):
            for name in x.called("calls", "called_computations"):
                for y in self.program.computations.get(name, ()):
                    kind = y.opcode.removesuffix("-start")
                    if kind in COLLECTIVES:
                        self._note(_chain(y, kind), kind, True, y.type, times, part(y.scope, here))

    def _note(self, key, kind, hidden, type_, times, here):
        old = self.collectives.get(key, {"bytes": 0, "async": False})
        self.collectives[key] = {
            "kind": kind,
            "part": here,
            "bytes": max(old["bytes"], times * size(type_)),
            "async": hidden or old["async"],
        }

    def summary(self):
        """All that is kept of a program."""
        told = {name: self.parts[name] for name in sorted(self.parts) if self.parts[name]}
        step = sum(cycles for name, cycles in told.items() if name != "first")
        cycles = {"step": step, "without_refresh": step - told.get("refresh", 0), "parts": told}
        kernels = sum(n for opcode, n in self.opcodes.items() if opcode not in FREE and not opcode.endswith("-done"))
        return {
            "cycles": cycles if step else None,
            "collectives": self._by_kind(),
            "kernels": kernels,
            "fusions": self.opcodes["fusion"],
            "loops": self.opcodes["while"],
        }

    def _by_kind(self):
        rows = []
        for kind in COLLECTIVES:
            for hidden in (False, True):
                found = [c for c in self.collectives.values() if c["kind"] == kind and c["async"] == hidden]
                if found:
                    mine = sum(c["bytes"] for c in found if c["part"] not in ("model", "unnamed"))
                    total = sum(c["bytes"] for c in found)
                    rows.append(
                        {"kind": kind, "async": hidden, "count": len(found), "bytes": total, "optimizer_bytes": mine}
                    )
        return rows


def _chain(x, kind):
    """What the parts of one collective that is spread over several fusions have in common.

    All collectives of a `jax.shard_map` have the same channel, so that a channel alone does not tell them apart.
    """
    chain = x.rest.partition('chain_id="')[2].partition('"')[0]
    return kind, x.attribute("channel_id"), chain or x.name, x.type.partition("{")[0]


def trips(program, instructions, loop):
    """How often a loop runs that counts from a constant up to another; None if the program does not tell."""
    known = loop.rest.partition('"known_trip_count":{"n":"')[2].partition('"')[0]
    if known.isdigit():
        return int(known)
    condition = {x.name: x for name in loop.called("condition") for x in program.computations[name]}
    root = next((x for x in condition.values() if x.root), None)
    if root is None or root.opcode != "compare" or "direction=LT" not in root.rest:
        return None
    counter, bound = (condition.get(name) for name in root.operands)
    carried = {x.name: x for x in instructions}
    start = _carried(carried, loop, counter)
    end = _constant(condition, bound)
    end = _carried(carried, loop, bound) if end is None else end
    if start is None or end is None:
        return None
    return max(-(-(end - start) // _stride(program, loop, counter)), 0)


def _stride(program, loop, counter):
    """What a turn adds to the counter: more than 1 where the compiler has unrolled the loop."""
    body = {x.name: x for name in loop.called("body") for x in program.computations[name]}
    root = next((x for x in body.values() if x.root and x.opcode == "tuple"), None)
    x = body.get(root.operands[counter.attribute("index")]) if root else None
    total = 0
    while x is not None and x.opcode in ("add", "copy", "bitcast"):
        added = [n for n in (_constant(body, body.get(name)) for name in x.operands) if n is not None]
        total += added[0] if x.opcode == "add" and added else 0
        x = next((body[n] for n in x.operands if n in body and body[n].opcode != "constant"), None)
    return max(total, 1)


def _carried(names, loop, element):
    """The constant with which an element of what a loop carries begins, or None."""
    index = element.attribute("index") if element is not None and element.opcode == "get-tuple-element" else None
    carried = names.get(loop.operands[0])
    if index is None or carried is None or carried.opcode != "tuple":
        return None
    return _constant(names, names.get(carried.operands[index]))


def _constant(names, x):
    """The whole number that an instruction is or copies, or None."""
    while x is not None and x.opcode in ("copy", "bitcast", "convert"):
        x = names.get(x.operands[0])
    return int(x.inside) if x is not None and x.opcode == "constant" and x.inside.lstrip("-").isdigit() else None

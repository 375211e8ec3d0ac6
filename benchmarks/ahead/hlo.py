"""Compiled programs as text: computations and their instructions."""

import re
from typing import NamedTuple

_NAME = re.compile(r"%?([\w.\-]+)")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_START = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_COMMENT = re.compile(r"/\*.*?\*/")
_ARRAY = re.compile(r"\b(pred|token|bf16|[a-z]+\d+\w*)\[([\d,<=]*)\]")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|branch_computations|true_computation|false_computation|called_computations)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_BITS = {"pred": 8, "token": 0, "opaque": 0}
_NO_ESTIMATE = 1e15


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    """All that follows the operands."""
    inside: str
    """What stands in the parentheses: the operands, or the value of a constant."""
    root: bool

    @property
    def cycles(self):
        """The compiler's estimate; 0 where there is none."""
        found = re.search(r'"estimated_cycles":"?(\d+)', self.rest)
        return int(found[1]) if found and int(found[1]) < _NO_ESTIMATE else 0

    @property
    def scope(self):
        """The names under which it was traced."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    def called(self, *keys):
        """The computations that it calls under any of these keys."""
        found = [names for key, names in _CALLED.findall(self.rest) if key in keys]
        return [name for names in found for name in _NAME.findall(names)]

    def attribute(self, key):
        """A whole number among the attributes, or None."""
        found = re.search(rf"\b{key}=(\d+)", self.rest)
        return int(found[1]) if found else None


class Program(NamedTuple):
    """Computations by name, and the name of the first one to run."""

    computations: dict[str, list[Instruction]]
    entry: str


def parse(text):
    """Read a program as `compiled.as_text()` prints it."""
    computations, entry, here = {}, "", None
    for line in text.splitlines():
        if here is None:
            header = _HEADER.match(line)
            if header:
                here = computations.setdefault(header[2], [])
                entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            here = None
        else:
            found = _instruction(line)
            if found is not None:
                here.append(found)
    if not entry:
        raise ValueError("The text has no ENTRY computation: pass the optimized program, compiled.as_text().")
    return Program(computations, entry)


def _instruction(line):
    line = _COMMENT.sub("", line) if "/*" in line else line
    start = _START.match(line)
    if start is None:
        return None
    after = line[start.end() :]
    end = _closing(after, 0) if after.startswith("(") else _type_end(after)
    opcode = _OPCODE.match(after, end)
    if opcode is None:
        return None
    stop = _closing(after, opcode.end() - 1)
    inside = after[opcode.end() : stop - 1]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(start[2], after[:end], opcode[1], operands, after[stop:], inside, bool(start[1]))


def _closing(text, start):
    """The position behind the parenthesis that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i + 1
    return len(text)


def _type_end(text):
    """The position behind a type that is no tuple: `f32[8,128]{1,0:T(8,128)}`."""
    brace = text.find("{")
    space = text.find(" ")
    return text.index("}", brace) + 1 if 0 <= brace < space else space


def size(text):
    """Bytes of all arrays in a type, without padding.

    >>> size("(f32[8,128]{1,0:T(8,128)}, bf16[4], pred[], s4[3])")
    4107
    """
    total = 0
    for kind, sides in _ARRAY.findall(text):
        bits = _BITS.get(kind) if kind in _BITS else int(re.search(r"\d+", kind)[0])
        for side in sides.replace("<=", "").split(","):
            bits *= int(side) if side else 1
        total += -(-bits // 8)
    return total

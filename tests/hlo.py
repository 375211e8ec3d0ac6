"""What the text of a compiled program says."""

import re

_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=(%[\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


def run_in_any_case(compiled):
    """The instructions of a compiled program that may run although a loop of unknown length has no turn."""
    bodies = dict(re.findall(r"^(?:ENTRY )?(%[\w.-]+) \(.*?\{\n(.*?)^\}", compiled, re.M | re.S))
    seen, left = {}, [re.search(r"^ENTRY (%[\w.-]+)", compiled, re.M).group(1)]
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen[name] = bodies[name]
        for line in bodies[name].splitlines():
            if " while(" not in line or "known_trip_count" in line:
                left += _CALLED.findall(line)
                left += [x for branches in _BRANCHES.findall(line) for x in branches.split(", ")]
    return "\n".join(seen.values())


def results_of(lowered, operation):
    """The shapes of the results of an operation, in the text of a lowered program."""
    lines = re.findall(rf'stablehlo\.{operation}"?\(.*', lowered)
    return [_shape(re.findall(r"tensor<([\dx]*)\w+>", line)[-1]) for line in lines]


def reduced_by(lowered):
    """The shapes of the first operand of every reduction, in the text of a lowered program."""
    return [_shape(x) for x in re.findall(r"stablehlo\.reduce\(.*? : \(tensor<([\dx]*)\w+>", lowered)]


def _shape(text):
    return tuple(int(d) for d in text.split("x") if d)

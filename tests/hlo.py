"""What the text of a compiled program says."""

import re


def run_in_any_case(compiled):
    """The instructions of a compiled program that run whatever its conditions and loops do."""
    bodies = dict(re.findall(r"^(?:ENTRY )?(%[\w.-]+) \(.*?\{\n(.*?)^\}", compiled, re.M | re.S))
    seen, left = {}, [re.search(r"^ENTRY (%[\w.-]+)", compiled, re.M).group(1)]
    while left:
        name = left.pop()
        if name not in seen:
            seen[name] = bodies[name]
            left += re.findall(r"(?:calls|to_apply)=(%[\w.-]+)", bodies[name])
    return "\n".join(seen.values())

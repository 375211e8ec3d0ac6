"""Time many steps in a row, and the kernels of which a step is made."""

import collections
import tempfile
import time
from pathlib import Path

import jax

from benchmarks.ahead import hlo, reading


def in_a_row(run, repeats):
    """The mean time of a call if the host does not wait between calls, as a training loop does not."""
    jax.block_until_ready(run())
    start = time.perf_counter()
    for _ in range(repeats):
        last = run()
    jax.block_until_ready(last)
    return 1e3 * (time.perf_counter() - start) / repeats


def kernels(run, program, steps):
    """The milliseconds that kernels take on the device in a step, by part of the program, and the longest of them.

    Args:
      run: does a step.
      program: the text of the compiled program, which says to which part an instruction belongs.
      steps: how many to watch.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                last = run()
            jax.block_until_ready(last)
        (file,) = Path(folder).rglob("*.xplane.pb")
        planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
        scopes = {x.name: x.scope for c in hlo.parse(program).computations.values() for x in c}
        parts, names, count = collections.Counter(), collections.Counter(), 0
        for plane in planes:
            if not plane.name.startswith("/device:GPU"):
                continue
            for line in plane.lines:
                if not line.name.startswith("Stream"):
                    continue
                for event in line.events:
                    here = reading.part(scopes.get(dict(event.stats).get("hlo_op"), ""))
                    parts[here] += event.duration_ns
                    names[f"{here}: {event.name[:80]}"] += event.duration_ns
                    count += 1

    def each(counter, most=None):
        return {name: round(ns / steps / 1e6, 4) for name, ns in counter.most_common(most)}

    return {"kernels": round(count / steps), "parts_ms": each(parts), "longest_ms": each(names, 20)}

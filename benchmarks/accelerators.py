"""Compile training steps for TPUs and NVIDIA GPUs that are not there, and keep what the compilers say of them.

    make accelerators                                        the standard cases, into results/accelerators.json
    make accelerators ACCEL_ARGS="--target v5e-8 --loop fsdp fsdp-told --optimizer adamw shampoo-256"
    make accelerators ACCEL_ARGS=--quick                     five small cases against the JSON; nothing is written
    make accelerators ACCEL_ARGS=--draw                      docs/images/accelerators.svg and the page's table

Nothing is run, and no accelerator is needed. Each case is compiled in a process of its own. TPUs need .venv-tpu, which
`make accelerators` builds; GPUs need .venv-cuda, which `make accelerators-cuda` builds (5 GB).
"""

import argparse
import importlib.util
import itertools
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parent.parent))

from ahead import child, drawing, loops, models, optimizers, results, targets
from ahead.case import Case
from ahead.standard import QUICK, STANDARD

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "accelerators.json"
CUDA = child.ROOT / ".venv-cuda" / "bin" / "python"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=models.MODELS, metavar="NAME", help=", ".join(models.MODELS))
    parser.add_argument("--loop", nargs="+", choices=loops.LOOPS, metavar="NAME", help=", ".join(loops.LOOPS))
    parser.add_argument("--target", nargs="+", choices=targets.TARGETS, metavar="NAME", help=", ".join(targets.TARGETS))
    names = ", ".join(optimizers.NAMES)
    parser.add_argument("--optimizer", nargs="+", metavar="NAME", help=f"{names}; with a block size: shampoo-768")
    parser.add_argument("--limit", type=int, default=570, help="seconds of the clock for one case")
    parser.add_argument("--missing", action="store_true", help="only cases that have no row yet, or that failed")
    parser.add_argument(
        "--quick", action="store_true", help="compare, write nothing, fail where more than 3 %% are added"
    )
    parser.add_argument("--draw", action="store_true", help="compile nothing; draw what is there")
    parser.add_argument("--programs", help="a folder for the compiled programs, as text")
    parser.add_argument("--python", help="the interpreter that has the compiler of TPUs; this one by default")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    return parser.parse_args()


def cases_of(given):
    """The cases that were asked for: the standard ones, or every combination."""
    if given.quick:
        return QUICK
    if not (given.model or given.loop or given.target or given.optimizer):
        return STANDARD
    asked = (
        given.model or ["gpt-small"],
        given.loop or ["dp"],
        given.target or ["v5e-8"],
        given.optimizer or ["adamw", "shampoo-256", "soap-256"],
    )
    for name in asked[3]:
        optimizers.parsed(name)
    return [Case(*x) for x in itertools.product(*asked)]


def python_of(case, given):
    """The interpreter whose environment has the compiler.

    Raises:
      SystemExit: if there is none, with what to do.
    """
    if targets.TARGETS[case.target].platform == "cuda":
        if not CUDA.exists():
            sys.exit(
                f"{case.key}: the compiler for GPUs is not here ({CUDA}): run `make accelerators-cuda` (5 GB) first."
            )
        return CUDA
    if given.python is None and importlib.util.find_spec("libtpu") is None:
        sys.exit(f"{case.key}: {sys.executable} has no libtpu, the compiler for TPUs: run `make accelerators`.")
    return given.python or sys.executable


def compile_all(cases, given, rows):
    """Compile one case after the other; yields the key and the row of each."""
    if given.missing:
        cases = [case for case in cases if case.key not in rows or "failed" in rows[case.key]]
    pythons = [python_of(case, given) for case in cases]
    print(drawing.HEADER, flush=True)
    for case, python in zip(cases, pythons, strict=True):
        row = child.run(case, python, given.limit, given.programs)
        print(drawing.line(case.key, row), flush=True)
        yield case.key, row


def main():
    """Compile what was asked for, and write or compare the rows."""
    given = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what is being compiled is ended, too
    if given.case:
        child.work(given.case, given.out, given.programs)
        return
    rows = results.load(RESULTS)
    if given.quick:
        new = dict(compile_all(cases_of(given), given, {}))
        lines, well = results.verdict(rows, new)
        print("\n".join(lines))
        sys.exit(0 if well else 1)
    if not given.draw:
        for key, row in compile_all(cases_of(given), given, rows):
            rows = results.merged(results.load(RESULTS), {key: row})
            results.save(RESULTS, rows)
    drawing.draw(rows)


if __name__ == "__main__":
    main()

"""Measure on the GPU of this machine, and keep what was found.

    make gpu                                      the tests that matter there, and all of this
    python -m benchmarks.gpu                      writes benchmarks/results/gpu.json
    python -m benchmarks.gpu --parts products     one part; the others stay as they are in the file

The file is written after every row, so that a run that is cut leaves what it has.
"""

import argparse
import json
import os
import time
from pathlib import Path

# Without this the first process takes three quarters of the memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
from benchmarks import measure

from . import products, refreshes, training, updates

FILE = measure.RESULTS / "gpu.json"


def found_rows(given):
    """The part and the row of everything that is measured, in order of importance."""
    if "training" in given.parts:
        ready = _wait_for(given.after)
        found = training.rows(given.model, given.sequences, given.steps, given.optimizers, ready, given.programs)
        yield from (("training", row) for row in found)
    if "updates" in given.parts:
        yield from (("updates", row) for row in updates.rows())
    if "refreshes" in given.parts:
        yield from (("refreshes", row) for row in refreshes.rows())
    if "products" in given.parts:
        yield from (("products", row) for row in products.rows())


def _wait_for(file):
    """Return a function that waits for a file, which another process makes when it no longer uses the device."""

    def wait():
        while file is not None and not file.exists():
            time.sleep(0.5)

    return wait


def main():
    """Measure, and write after every row."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parts = ("training", "updates", "refreshes", "products")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--model", default="gpt-124m", choices=training.BLOCK)
    parser.add_argument("--optimizers", nargs="+", help="by name, as 'soap, rotations'; by default all")
    parser.add_argument("--sequences", type=int, default=16, help="in a batch")
    parser.add_argument("--steps", type=int, default=10, help="timed one by one, and four times as many in a row")
    parser.add_argument("--after", type=Path, help="a file: nothing is timed before it is there")
    parser.add_argument("--programs", type=Path, help="a folder for the texts of the programs")
    given = parser.parse_args()
    FILE.parent.mkdir(parents=True, exist_ok=True)
    result = json.loads(FILE.read_text()) if FILE.exists() else {}
    result |= {"machine": measure.machine(), "commit": measure.commit()} | {part: [] for part in given.parts}
    for part, row in found_rows(given):
        result[part].append(row)
        print(part, json.dumps(row), flush=True)
        FILE.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

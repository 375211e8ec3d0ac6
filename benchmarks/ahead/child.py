"""Every case in a process of its own, with a limit on its time."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "benchmarks" / "accelerators.py"
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # a TPU or a GPU is never looked for
    "TPU_SKIP_MDS_QUERY": "1",  # nor a server that knows of one
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # what was compiled once would take no time
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}


def run(case, python, limit, programs=None):
    """Compile a case with another interpreter.

    Args:
      case: a `case.Case`.
      python: of the environment that has the compiler.
      limit: seconds of wall time, after which it is ended.
      programs: a folder for the text of the program, or None.

    Returns:
      The row of the case. One that failed has `failed`, one that was ended has `unfinished`: more than the processor
      seconds that it was given.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "row.json", Path(folder) / "log"
        command = [str(python), str(SCRIPT), "--case", case.key, "--out", str(out)]
        command += ["--programs", str(Path(programs).resolve())] if programs else []
        with log.open("w") as file:
            start = time.perf_counter()
            child = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | ENVIRONMENT, start_new_session=True
            )
            late, used = _wait(child, limit)
        wall = round(time.perf_counter() - start, 1)
        row = json.loads(out.read_text()) if out.exists() else {}
        if late:
            row["compiler_s"] = row["unfinished"] = f">{int(used)} s"
        elif "kernels" not in row:
            row["failed"] = _failure(log.read_text(errors="replace"))
        return row | {"process_s": round(used, 1), "wall_s": wall}


def _wait(child, limit):
    """Whether a process had to be ended, and the processor seconds it took."""
    late = threading.Event()

    def end():
        late.set()
        _kill(child)

    timer = threading.Timer(limit, end)
    timer.start()
    try:
        _, status, usage = os.wait4(child.pid, 0)
    except BaseException:  # the user has had enough: the child goes, too
        _kill(child)
        raise
    finally:
        timer.cancel()
    child.returncode = os.waitstatus_to_exitcode(status)
    return late.is_set(), usage.ru_utime + usage.ru_stime


def _kill(child):
    """End a process and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _failure(log):
    """The last line that says something."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "It ended without a word."


def work(key, out, programs):
    """What the child does: compile, and write down the stage it is in, and then the row."""
    sys.path.insert(0, str(ROOT))
    from .case import Case, compiled, today, versions
    from .targets import TARGETS

    case = Case.of(key)
    known = {"versions": versions(TARGETS[case.target].platform), "date": today()}

    def told(stage):
        Path(out).write_text(json.dumps(known | {"stage": stage}))

    row = compiled(case, told, programs)
    Path(out).write_text(json.dumps(row))

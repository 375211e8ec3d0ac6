"""`python -m precond doctor`: the exit status, JSON, and how long it takes."""

import json
import os
import resource
import subprocess
import sys

import pytest

import precond
from precond.__main__ import main


def doctor(*arguments, **environment):
    """A process of its own, as a user starts it."""
    command = [sys.executable, "-m", "precond", "doctor", *arguments]
    variables = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def healthy():
    """The finished process, and the seconds of CPU that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = doctor()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_healthy_machine_has_status_0(healthy):
    done, _ = healthy
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing is wrong." in done.stdout
    for part in (precond.__version__, "jaxlib", "default matmul precision", "root by eigh(), the default"):
        assert part in done.stdout


def test_it_takes_less_than_half_a_minute(healthy):
    # The processor's time, which other programs on the machine do not lengthen.
    assert healthy[1] < 30


def test_a_trap_has_status_1_and_says_what_to_do(capsys, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "64")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(4), raising=False)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "Problem: OPENBLAS_NUM_THREADS is 64, and there are 4 cores." in out
    assert "What to do: Set OPENBLAS_NUM_THREADS=1" in out


@pytest.mark.parametrize("platform", ["cuda", "banana"])
def test_a_platform_that_is_not_there_has_status_1(platform):
    done = doctor(JAX_PLATFORMS=platform)
    assert done.returncode == 1, done.stderr
    assert f"Problem: JAX finds no device. JAX_PLATFORMS is {platform}." in done.stdout


def test_json_has_the_same(capsys):
    assert main(["doctor", "--json", "--dtype", "float64"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["machine"]["versions"]["precond"] == precond.__version__
    assert found["trials"]["chosen"] == "eigh"
    assert [trial["method"] for trial in found["trials"]["roots"]] == ["eigh", "composite"]
    (problem,) = found["problems"]
    assert "64-bit types are off" in problem["seen"]


@pytest.mark.parametrize("dtype", ["float31", "int32", "banana"])
def test_a_dtype_that_is_none_is_refused(dtype, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["doctor", "--dtype", dtype])
    assert f"{dtype} must be a floating-point type: float32" in capsys.readouterr().err

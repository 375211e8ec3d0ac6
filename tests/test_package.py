"""What is installed and what is released: the version, the command, and the files of the sdist."""

import importlib
import inspect
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import precond
from precond.diagnosis.find_problems import OLDEST

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SDIST = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]
# Hatch adds these by itself.
BY_ITSELF = {"pyproject.toml", "README.md", "LICENSE", ".gitignore"}
# Continuous integration and tools of developers have a checkout.
LEFT_OUT = {".ci", ".github", ".pre-commit-config.yaml"}


def test_there_is_one_version():
    assert PROJECT["project"]["dynamic"] == ["version"]
    file = ROOT / PROJECT["tool"]["hatch"]["version"]["path"]
    assert runpy.run_path(str(file))["__version__"] == precond.__version__


def test_a_plain_checkout_has_a_version_and_a_command(tmp_path):
    # Without any installed distribution of the library: only its dependencies are on the path.
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); import precond.command as c; sys.exit(c.main())"
    run = [sys.executable, "-c", code, str(ROOT), "--version"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"precond {precond.__version__}\n"


def test_the_command_is_that_of_the_module():
    from precond.__main__ import main

    module, _, name = PROJECT["project"]["scripts"]["precond"].partition(":")
    assert getattr(importlib.import_module(module), name) is main


def test_the_doctor_knows_the_oldest_versions():
    extras = PROJECT["project"]["optional-dependencies"]
    given = dict(x.split(">=") for x in [*PROJECT["project"]["dependencies"], *extras["flax"]])
    python = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert given | {"Python": python} == OLDEST


def included(name):
    return any(f"/{name}/".startswith(f"{entry}/") for entry in SDIST["include"])


def test_the_sdist_has_all_that_its_tests_and_its_makefile_need():
    needed = [
        *(
            "benchmarks/results/kfac.json",
            "docs/plan.md",
            "examples/multi_process.py",
            "tests/parity",
            "tests/conftest.py",
        ),
        *("Makefile", "constraints.txt", "mkdocs.yml", "CHANGELOG.md", "precond/py.typed"),
    ]
    for name in needed:
        assert (ROOT / name).exists(), name
        assert included(name), name
    for entry in SDIST["include"]:
        assert (ROOT / entry.lstrip("/")).exists(), f"the sdist includes {entry}, which is not there"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_the_sdist_leaves_out_no_tracked_file():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    files = [name for name in listed.stdout.splitlines() if name.split("/")[0] not in LEFT_OUT | BY_ITSELF]
    assert len(files) > 200
    assert [name for name in files if not included(name)] == []


def test_the_sdist_is_built_as_said():
    sdist = pytest.importorskip("hatchling.builders.sdist", reason="make dist installs it")
    files = {file.distribution_path for file in sdist.SdistBuilder(str(ROOT)).recurse_included_files()}
    assert {"docs/plan.md", "examples/demo.py", "tests/test_package.py", "constraints.txt", "Makefile"} <= files


def pinned():
    """The tested versions by package: for Python 3.11, and for 3.12 and later."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if "==" in line and not line.startswith("#"):
            name, _, rest = line.partition("==")
            version, _, marker = rest.partition(";")
            old, new = found.setdefault(name, ["", ""])
            found[name] = [old if ">=" in marker else version.strip(), new if "< " in marker else version.strip()]
    return found


@pytest.mark.parametrize("package", ["jax", "optax", "numpy", "flax"])
def test_the_table_of_supported_versions_is_that_of_the_pins(package):
    table = (ROOT / "docs" / "versions.md").read_text()
    (row,) = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith(f"| {package}")]
    assert row[1:] == [OLDEST[package], *pinned()[package]]


def test_everything_that_names_the_version_names_this_one():
    assert f"\nversion: {precond.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"version = {{{precond.__version__}}}" in (ROOT / "docs" / "citing.md").read_text()
    assert f"\n## [{precond.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"precond +{re.escape(precond.__version__)}\n", (ROOT / "docs" / "doctor.md").read_text())


@pytest.mark.skipif(not (ROOT / ".github").exists(), reason="not a checkout")
def test_the_workflows_run_targets_of_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    flows = "".join(path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    named = set(re.findall(r"run: make ([a-z-]+)", flows)) | set(re.search(r"target: \[(.*)\]", flows)[1].split(", "))
    assert {"lint", "docs", "docs-check", "dist-check", "bench-smoke", "quick", "test"} <= named <= targets
    for version in re.findall(r'"(3\.\d+)"', flows):
        assert f"Programming Language :: Python :: {version}" in PROJECT["project"]["classifiers"]


WITHOUT_FLAX = """
import sys
sys.modules["flax"] = None
import precond
assert not hasattr(precond.layers, "flux")
for name in ("linen", "nnx"):
    try:
        getattr(precond.layers, name)
    except ImportError as error:
        assert "precond[flax]" in str(error), error
    else:
        raise AssertionError(name)
"""


def test_a_front_end_says_that_flax_is_missing():
    subprocess.run([sys.executable, "-c", WITHOUT_FLAX], check=True, cwd=ROOT)


def test_a_front_end_is_there_without_an_import_of_its_own():
    code = "import precond, sys; assert 'flax' not in sys.modules; precond.layers.linen, precond.layers.nnx"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def parts():
    """What every public function makes that needs no arguments, or a learning rate alone."""
    spaces = ("contrib", "large_batches", "layers", "orthogonal", "recipes", "replicas", "roots", "transforms", "views")
    for module in (precond, *(getattr(precond, space) for space in spaces)):
        for name in module.__all__:
            function = getattr(module, name)
            if inspect.isfunction(function) and name != "joint":  # which needs some
                given = inspect.signature(function).parameters.values()
                needed = [
                    p.name for p in given if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
                ]
                if needed in ([], ["learning_rate"]):
                    yield name, function(*[0.5][: len(needed)])


def test_no_part_prints_an_address():
    found = {name: repr(part) for name, part in parts() if not inspect.isfunction(part)}
    assert len(found) > 100
    assert not [name for name, text in found.items() if " at 0x" in text]

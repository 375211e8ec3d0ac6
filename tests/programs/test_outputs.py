"""Where the examples write."""

import argparse
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IGNORED = ROOT / "examples" / "output"
WRITERS = [
    path
    for path in sorted([*ROOT.glob("examples/*.py"), *ROOT.glob("examples/programs/*.py")])
    if '"--output"' in path.read_text()
]


class AskedError(Exception):
    """The example has named its arguments, and would begin to work."""


@pytest.mark.parametrize("path", WRITERS, ids=lambda path: path.stem)
def test_an_example_writes_into_no_tracked_file_unless_it_is_told_to(path, monkeypatch):
    found = {}

    def parse(parser):
        found["output"] = parser.get_default("output")
        raise AskedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.syspath_prepend(path.parent)
    with pytest.raises(AskedError):
        importlib.import_module(path.stem).main()
    assert IGNORED in (found["output"], found["output"].parent)


def test_git_ignores_what_the_examples_write():
    assert "examples/output/" in (ROOT / ".gitignore").read_text().splitlines()
    assert len(WRITERS) == 8

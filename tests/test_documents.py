"""Every block of Python in the README and the docs runs, in the order of its page."""

import json
import re
from pathlib import Path

import matplotlib as mpl
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_page_runs(page, tmp_path, monkeypatch):
    mpl.use("agg")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for number, block in enumerate(blocks(page)):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


def test_what_k_fac_costs_is_what_was_counted():
    counted = json.loads((ROOT / "benchmarks" / "results" / "kfac.json").read_text())
    page, percent = (ROOT / "docs" / "kfac.md").read_text(), counted["percent_more_than_a_plain_step"]
    assert all(f"| {value} % |" in page for value in percent.values())
    assert all(value < 10 for name, value in percent.items() if "an eighth" in name)


def test_the_readme_has_an_example():
    assert blocks(ROOT / "README.md")

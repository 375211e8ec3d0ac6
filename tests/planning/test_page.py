"""The numbers on the page are those that `precond.plan` finds."""

import re
from pathlib import Path

import pytest

from precond.__main__ import main

pytestmark = pytest.mark.platforms

PAGE = (Path(__file__).parent.parent.parent / "docs" / "plan.md").read_text()
ROWS = re.findall(r"^\| (\d+), (\d+) \| (\d+) \| (\d+) \| (.*) \|$", PAGE, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def cost():
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE):
        exec(block, names)
    return names["cost"]


@pytest.mark.parametrize(
    "row",
    # The larger model takes seconds to trace, and one block size stands for the other.
    [pytest.param(row, marks=() if row[0] == "2048" and row[3] == "512" else pytest.mark.slow) for row in ROWS],
    ids=lambda row: "-".join(row[:4]),
)
def test_the_table_is_true(row, cost):
    assert " | ".join(cost(*map(int, row[:4]))) == row[4]


def test_it_plans_8_256_and_4096_devices_for_both_models():
    assert {(int(width), int(devices)) for width, _, devices, *_ in ROWS} >= {
        (width, devices) for width in (2048, 8192) for devices in (8, 256, 4096)
    }


def test_the_command_prints_what_the_page_shows(capsys):
    shown = re.findall(r"^\$ python -m precond (.*)\n((?:.*\n)*?)```", PAGE.replace("\\\n", ""), flags=re.MULTILINE)
    assert len(shown) == 2
    for command, output in shown:
        main(command.split())
        assert capsys.readouterr().out == output

"""Results as CSV."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["write"]


def write(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write one line for each, under the names of the first; make the folder if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

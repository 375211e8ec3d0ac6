"""Rows of a JSON file by the key of their case: merged, and compared with those of an earlier run."""

import json
import os
from pathlib import Path

ALLOWED = 0.03
JUDGED = ("temporary_bytes", "argument_bytes", "peak_bytes")


def load(path):
    """The rows of a file by key; none if there is no file."""
    path = Path(path)
    return json.loads(path.read_text())["cases"] if path.exists() else {}


def merged(old, new):
    """All rows, the new ones in place of the old ones of the same cases, sorted by key.

    A case that did not finish never replaces a row with numbers that was made with the same versions.

    >>> list(merged({"b": {"kernels": 1}}, {"a": {"kernels": 2}}))
    ['a', 'b']
    """
    rows = dict(old)
    for key, row in new.items():
        before = rows.get(key, {})
        lost = "failed" in row or "unfinished" in row
        if lost and before.get("cycles") and before.get("versions") == row.get("versions"):
            continue
        rows[key] = row
    return dict(sorted(rows.items()))


def save(path, rows):
    """Write all rows, so that a run that is interrupted leaves a whole file."""
    path = Path(path)
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"cases": rows}, indent=1) + "\n")
    os.replace(part, path)


def figures(row):
    """What is judged of a row: numbers that a compiler repeats exactly, by name."""
    cycles = row.get("cycles") or {}
    out = {name: row.get(name) for name in JUDGED}
    out |= {"cycles": cycles.get("step"), "cycles without refresh": cycles.get("without_refresh")}
    out["bytes of collectives"] = sum(c["bytes"] for c in row.get("collectives", []))
    return {name.replace("_", " "): x for name, x in out.items() if x is not None}


def compared(old, new, allowed=ALLOWED):
    """What has grown between two rows by more than is allowed, and all else that makes them no match.

    Args:
      old: the row to hold.
      new: the row that was just made.
      allowed: the growth of a number that counts as none.

    Returns:
      Sentences; none if nothing is wrong.

    >>> (
    ...     compared({"temporary_bytes": 100}, {"temporary_bytes": 103}),
    ...     compared({}, {"failed": "ValueError: no."}),
    ... )
    ([], ['It was not compiled: ValueError: no.'])
    """
    if "failed" in new:
        return [f"It was not compiled: {new['failed']}"]
    if "unfinished" in new:
        return [f"It was not compiled in {new['unfinished'].lstrip('>')} of a processor."]
    before, now = figures(old), figures(new)
    missing = sorted(set(before) - set(now))
    grown = [name for name in before if name in now and now[name] > before[name] * (1 + allowed)]
    return [f"It has no {name} any more." for name in missing] + [_growth(n, before[n], now[n]) for n in grown]


def _growth(name, before, now):
    more = f"{100 * (now / before - 1):.1f} %" if before else "from nothing"
    return f"The {name} grew by {more}: {before:,} before, {now:,} now."


def verdict(old, new):
    """Compare new rows by key with the old ones.

    Returns:
      Lines to print, and whether all is well.
    """
    lines, well = [], True
    for key, row in new.items():
        if key not in old or "cycles" not in old[key]:
            lines.append(f"{key}: there is no row to compare with. Run the case without --quick, and commit the JSON.")
            well = False
            continue
        if row.get("versions", old[key]["versions"]) != old[key]["versions"]:
            lines.append(f"{key}: the versions differ, so that a growth need not be the library's.")
        wrong = compared(old[key], row)
        lines += [f"{key}: {sentence}" for sentence in wrong] or [f"{key}: nothing grew."]
        well = well and not wrong
    return lines, well

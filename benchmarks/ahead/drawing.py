"""Rows as a table in the terminal, as a table of the documentation, and as a plot."""

import re
import sys
from pathlib import Path

from .case import Case

ROOT = Path(__file__).parent.parent.parent
IMAGE = ROOT / "docs" / "images" / "accelerators.svg"
PAGE = ROOT / "docs" / "accelerators.md"
BEGIN, END = "<!-- the table begins -->", "<!-- the table ends -->"
ORDER = ("model", "unnamed", "packing", "statistics", "application", "optimizer", "refresh")
"""The parts of a step, from the left to the right of a bar."""
WORDS = {"optimizer": "rest of the optimizer", "unnamed": "added by the compiler"}

HEADER = (
    f"{'case':<44}{'compiler s':>11}{'peak MiB':>10}{'temp.':>9}{'arguments':>10}"
    f"{'Mcycles':>9}{'no refresh':>11}{'kernels':>8}  collectives: in line | asynchronous"
)


def mebibytes(x):
    return "-" if x is None else f"{x / 2**20:,.0f}"


def millions(x):
    return "-" if x is None else f"{x / 1e6:.2f}"


def told(collectives, hidden):
    """Collectives in words: `2 all-reduce of 15 MiB`."""
    found = [c for c in collectives if c["async"] == hidden]
    return ", ".join(f"{c['count']} {c['kind']} of {c['bytes'] / 2**20:.1f} MiB" for c in found)


def line(key, row):
    """A row for the terminal."""
    if "failed" in row:
        return f"{key:<44}{row['failed']}"
    if "unfinished" in row:
        return f"{key:<44}{row['unfinished']:>11}  (ended while in stage: {row.get('stage', 'start')})"
    cycles, collectives = row["cycles"] or {}, row["collectives"]
    return (
        f"{key:<44}{row['compiler_s']:>11.1f}{mebibytes(row['peak_bytes']):>10}{mebibytes(row['temporary_bytes']):>9}"
        f"{mebibytes(row['argument_bytes']):>10}{millions(cycles.get('step')):>9}"
        f"{millions(cycles.get('without_refresh')):>11}{row['kernels']:>8}"
        f"  {told(collectives, False)} | {told(collectives, True)}"
    )


def table(rows):
    """The table of the page, in Markdown."""
    lines = [
        "| target | model | loop | optimizer | compiler, s | peak, MiB | temporaries | arguments "
        "| Mcycles | without refresh | collectives |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, row in rows.items():
        if "failed" in row:
            continue
        case = Case.of(key)
        cells = [case.target, case.model, case.loop, case.optimizer]
        if "unfinished" in row:
            cells += [row["unfinished"].removesuffix(" s"), *[""] * 6]
        else:
            cycles = row["cycles"] or {}
            cells += [f"{row['compiler_s']:.0f}"]
            cells += [mebibytes(row[f"{name}_bytes"]) for name in ("peak", "temporary", "argument")]
            cells += [millions(cycles.get(name)) for name in ("step", "without_refresh")]
            hidden = told(row["collectives"], True)
            words = (told(row["collectives"], False), f"asynchronous: {hidden}" if hidden else "")
            cells += ["; ".join(w for w in words if w)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def with_table(page, rows):
    """A page with its table renewed."""
    found = re.search(re.escape(BEGIN) + r".*?" + re.escape(END), page, flags=re.DOTALL)
    if found is None:
        raise ValueError(f"The page has no place for the table: put {BEGIN} and {END} where it belongs.")
    return page[: found.start()] + f"{BEGIN}\n\n{table(rows)}\n\n{END}" + page[found.end() :]


def draw(rows):
    """Renew the plot and the table of the page."""
    if PAGE.exists():
        PAGE.write_text(with_table(PAGE.read_text(), rows))
    try:
        sys.path.append(str(ROOT / "examples"))
        import plots
    except ImportError:
        print("There is no matplotlib here, so that nothing is drawn; --draw with another Python draws it.")
        return
    groups = {}
    for key, row in rows.items():
        if row.get("cycles"):
            case = Case.of(key)
            groups.setdefault((case.model, case.loop, case.target), {})[case.optimizer] = row["cycles"]["parts"]
    if groups:
        _plot(plots, groups)


def _plot(plots, groups):
    """One panel for each model, loop and target; one bar for each optimizer, of its parts."""
    heights = [len(bars) + 1 for bars in groups.values()]
    figure, panels = plots.panels(len(groups), 0.42 * sum(heights) / len(groups) + 0.3, height_ratios=heights)
    for panel, (title, bars) in zip(panels, groups.items(), strict=True):
        names, left = list(bars)[::-1], [0.0] * len(bars)
        for number, part in enumerate(ORDER):
            width = [bars[name].get(part, 0) / 1e6 for name in names]
            panel.barh(names, width, left=left, color=plots.PALETTE[number], label=WORDS.get(part, part))
            left = [a + b for a, b in zip(left, width, strict=True)]
        panel.set_title(", ".join(title))
    panels[-1].set_xlabel("millions of cycles a step, as estimated; less is better")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    plots.save(figure, IMAGE)

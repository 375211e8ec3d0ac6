"""The tables of docs/benchmarks.md and the plot, from the trials that are kept."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

import precond
from benchmarks import measure
from benchmarks.quality import reading
from benchmarks.quality.optimizers import METHODS
from benchmarks.quality.train import Trial

PAGE = measure.IMAGES.parent / "benchmarks.md"
Results = dict[str, list[Trial]]


def load(folder: Path, order: list[str]) -> Results:
    """The trials of every task that has results."""
    paths = {name: folder / f"{name}.json" for name in order}
    return {
        name: [Trial(**row) for row in json.loads(path.read_text())["trials"]]
        for name, path in paths.items()
        if path.exists()
    }


def cell(value: float) -> str:
    """Two digits; a dash for what was not run."""
    return "" if math.isnan(value) else "never" if math.isinf(value) else f"{value:.2f}"


def percent(part: float) -> str:
    return "never" if math.isinf(part) else f"{100 * part:.0f}"


def seconds(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:.2f}"


def ratio(name: str, trials: list[Trial], field: str, by: str = "adamw", of: str | None = None) -> float:
    """Steps or seconds to AdamW's target, by those of AdamW or of another method; at its number, or at another's."""
    if not reading.seeds_of(name, trials, of=of):
        return math.nan
    goal = reading.target(trials, "adamw")[1]
    its, others = reading.to_target(name, trials, goal, of), reading.to_target(by, trials, goal)
    return getattr(its, field) / getattr(others, field)


def overview(results: Results, value: Callable[[str, list[Trial]], float]) -> str:
    """One row for each optimizer, one column for each task."""
    lines = ["| | " + " | ".join(results) + " |", "|---" * (len(results) + 1) + "|"]
    for name in METHODS:
        cells = [cell(value(name, trials)) for trials in results.values()]
        if any(cells):
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def details(trials: list[Trial]) -> str:
    """All numbers of a task."""
    setter, goal = reading.target(trials)
    lines = [
        f"Target: {goal:.4g}, that of {setter}.\n",
        "| optimizer | number | last loss | steps to the target, % (range) | seconds | search: best, documented |",
        "|---|---|---|---|---|---|",
    ]
    for name in METHODS:
        found, usual = reading.seeds_of(name, trials), reading.documented(name, trials)
        if not found:
            continue
        its, tuned = reading.to_target(name, trials, goal), reading.searched(name, trials)[found[0].number]
        edge = " (edge)" if found[0].number in reading.edges(name, trials) else ""
        spread = "" if math.isinf(its.least) else f" ({percent(its.least)} to {percent(its.most)})"
        row = [name, f"{found[0].number:g}{edge}", f"{reading.last(name, trials):.4g}", percent(its.steps) + spread]
        row += [seconds(its.seconds), ", ".join(f"{reading.final(t):.4g}" for t in (tuned, usual) if t)]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def size(name: str) -> float:
    """Bytes of the state of a square matrix, by those of the matrix."""
    tx = METHODS[name].make(1e-3, lambda count: 1.0, None)
    planned = precond.plan(tx, {"w": jax.ShapeDtypeStruct((512, 512), jnp.float32)})
    return sum(planned.bytes.values()) / (4 * 512**2)


def memory(results: Results) -> str:
    """The sizes of states, and steps to AdamW's loss by those of the state as it is, at its number."""
    lines = ["| | state | " + " | ".join(results) + " |", "|---" * (len(results) + 2) + "|"]
    for name, wide in {name: method.larger for name, method in METHODS.items() if method.larger}.items():
        cells = [cell(ratio(name, t, "steps", by=wide, of=wide)) for t in results.values()]
        lines.append(f"| {name} | {size(name):.1f}, not {size(wide):.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tables(results: Results) -> dict[str, str]:
    """By their names in the page."""
    return {
        "steps": overview(results, lambda name, trials: ratio(name, trials, "steps")),
        "seconds": overview(results, lambda name, trials: ratio(name, trials, "seconds")),
        "documented": overview(results, reading.slowdown),
        "memory": memory(results),
        "details": "\n\n".join(f"### {name}\n\n{details(trials)}" for name, trials in results.items()),
    }


def written(page: str, found: dict[str, str]) -> str:
    """The page with the tables between their marks."""
    for name, text in found.items():
        begin, end = f"<!-- {name} begins -->", f"<!-- {name} ends -->"
        page = re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n\n{text}\n\n{end}", page, flags=re.DOTALL)  # noqa: B023
    return page


def plot(results: Results) -> None:
    """A dot for each task: steps, and seconds, to AdamW's target by AdamW's own."""
    from plots import INK, MARKERS, panels, plain_log, save  # measure has made it known

    names = [n for n in METHODS if n != "adamw" and any(reading.seeds_of(n, t) for t in results.values())][::-1]
    worst = 4.0
    figure, axes = panels(2, height=3.9, sharex=True)
    for axis, field in zip(axes, ("steps", "seconds"), strict=True):
        for marker, (task, trials) in zip(MARKERS, results.items(), strict=False):
            ratios = [min(ratio(name, trials, field), worst) for name in names]
            axis.scatter(ratios, range(len(names)), marker=marker, label=task, alpha=0.8)
        axis.axvline(1, color=INK, linestyle=":")
        axis.set(xlabel=f"{field} to AdamW's loss, by its own; less is better", yticks=range(len(names)))
        axis.set_yticklabels(names)
    ticks = [0.1, 0.2, 0.3, 0.6, 1, 2, worst]
    plain_log(axes[0].xaxis, ticks=ticks)
    axes[0].set_xticks(ticks, [*[f"{x:g}" for x in ticks[:-1]], f"{worst:g}+\nor never"])
    axes[0].tick_params(labelbottom=True)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    save(figure, measure.IMAGES / "quality.svg")


def draw(folder: Path, order: list[str]) -> None:
    """Print the tables, and write them into the page where there is one."""
    found = tables(load(folder, order))
    for name, text in found.items():
        print(f"\n{name}\n\n{text}")
    if PAGE.exists():
        PAGE.write_text(written(PAGE.read_text(), found))
    plot(load(folder, order))

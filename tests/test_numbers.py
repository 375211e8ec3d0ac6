"""The numbers on the pages about examples are those of the results that are kept beside them."""

import csv
import importlib.util
import json
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "examples" / "results"
PAGE = (ROOT / "examples" / "README.md").read_text()


def table(heading):
    """The cells of the first table after a heading, without its first two lines."""
    lines = PAGE.split(f"\n## {heading}\n")[1].split("\n\n| ")[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines[2:]]


def json_of(name):
    return json.loads((RESULTS / name).read_text())


def rows_of(name):
    with (RESULTS / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_demo():
    def cells(row):
        yield from (row["optimizer"], f"{row['learning_rate']:g}", f"{row['b2']:g}", f"{row['held_out_loss']:.3f}")
        yield from (str(row["steps_to_baseline"]), f"{row['seconds_to_baseline']:.1f}", f"{row['seconds']:.1f}")
        yield from (f"{row['update_ms']:.1f} ms", f"{row['state_bytes'] / 1e6:.2f} MB")

    assert table("The demo") == [list(cells(row)) for row in json_of("demo.json")["table"]]


def test_the_ablation():
    found = json_of("ablation.json")["variants"]
    rows = [[r["group"], r["variant"], f"{r['learning_rate']:g}", f"{r['held_out_loss']:.3f}"] for r in found]
    assert table("The ablation") == rows


def test_large_batches():
    found = {}
    for row in rows_of("large_batch_adascale.csv"):
        found.setdefault((row["rule"], int(row["scale"])), []).append((float(row["loss"]), int(row["iterations"])))
    loss = {key: statistics.mean(x for x, _ in runs) for key, runs in found.items()}
    words = ["AdaScale", "linear", "linear, warm-up", "square root", "linear, AdaScale's iterations"]
    words += ["tuned, AdaScale's iterations"]
    shown = table("Large batches")
    iterations = [f"{statistics.mean(n for _, n in found['AdaScale', s]):.0f}" for s in (1, 2, 4, 8, 16, 32)]
    assert shown[0][1:] == iterations
    for rule, (_, *cells) in zip(words, shown[1:], strict=True):
        for scale, cell in zip((1, 2, 4, 8, 16, 32), cells, strict=True):
            value = loss.get((rule, scale))
            if value is None:
                assert cell == ""
            elif value > 1:
                assert cell == "diverges"
            else:
                assert abs(float(cell) - value) <= 0.5 * 10.0 ** -len(cell.split(".")[1])


def test_the_autoencoder():
    found = json_of("autoencoder_kfac.json")
    for name, *cells, ms in table("The autoencoder"):
        runs = [seed[name] for seed in found["seeds"]]
        assert cells == [f"{run['steps']}, {run['seconds']:.1f} s" for run in runs]
        assert ms == f"{min(r['ms'] for r in runs):.1f} to {max(r['ms'] for r in runs):.1f}"
    batches = {}
    for row in found["batches"]:
        batches.setdefault(row["method"], []).append(str(row["steps"]))
    lines = [line for line in PAGE.splitlines() if line.startswith(("| Adam, the better", "| K-FAC |", "| EK-FAC |"))]
    assert [line.strip("| ").split(" | ")[1:] for line in lines[-3:]] == list(batches.values())
    share = {n: [s[n]["seconds"] / s["Adam"]["seconds"] for s in found["seeds"]] for n in ("K-FAC", "EK-FAC")}
    words = "K-FAC takes {:.2f} to {:.2f} of Adam's time, and EK-FAC {:.2f} to {:.2f}."
    ends = [f(share[n]) for n in share for f in (min, max)]
    assert words.format(*ends) in " ".join(PAGE.split())


def test_the_neumann_optimizer():
    found = {}
    for row in rows_of("neumann_batch_sizes.csv"):
        found.setdefault(row["optimizer"], {}).setdefault(row["batch"], []).append(float(row["steps"]))
    rows = [[f"{statistics.median(steps):.0f}" for steps in batches.values()] for batches in found.values()]
    assert [cells for _, *cells in table("The Neumann optimizer and the size of a batch")] == rows


def test_whole_programs():
    path = ROOT / "examples" / "programs" / "table.py"
    spec = importlib.util.spec_from_file_location("programs_table", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        spec.loader.exec_module(module)
    assert module.markdown(json_of("programs.json")) in (ROOT / "docs" / "programs.md").read_text()


def test_what_one_run_without_a_search_costs():
    text = (ROOT / "docs" / "benchmarks.md").read_text().split("<!-- documented begins -->")[1]
    lines = text.split("<!-- documented ends -->")[0].splitlines()
    (row,) = [line for line in lines if line.startswith("| shampoo |")]
    costs = [float(cell) for cell in row.strip("| ").split(" | ")[1:]]
    cheap = [cost for cost in costs if cost <= 1.05]
    words = (
        f"On {len(cheap)} of the {len(costs)} tasks of the quality benchmark this costs Shampoo at most 5 % more steps"
    )
    assert words in " ".join((ROOT / "docs" / "tuning.md").read_text().split())


def test_no_power_of_shampoo_is_the_best_and_the_default_loses_the_least():
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    lines = text.split("<!-- steps begins -->")[1].split("<!-- steps ends -->")[0].splitlines()
    names = {"1/3": "shampoo", "1/4": "shampoo, power 1/4", "3/8": "shampoo, power 3/8", "1/2": "shampoo, power 1/2"}
    rows = {power: next(x for x in lines if x.startswith(f"| {name} |")) for power, name in names.items()}
    steps = {
        power: [float(cell.replace("never", "inf")) for cell in row.strip("| ").split(" | ")[1:]]
        for power, row in rows.items()
    }
    best = [min(task) for task in zip(*steps.values(), strict=True)]
    worst = {power: max(x / b for x, b in zip(row, best, strict=True)) for power, row in steps.items()}
    assert min(worst, key=lambda power: worst[power]) == "1/3"
    sentence = (
        f"The paper's 1/4 needs up to {worst['1/4']:.2g} times as many steps as the best power (on quadratic), and 1/3 "
        f"at most {worst['1/3']:.3g} times as many (on curves)."
    )
    assert sentence in " ".join(text.split())

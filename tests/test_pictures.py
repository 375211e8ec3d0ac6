"""Pictures: colours that everybody tells apart, letters that a phone shows, and plots of runs that were cut short."""

import csv
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
PHONE = 358
"""Pixels of a picture on a phone that is 390 pixels wide: the site leaves 16 on either side."""
DARK_PAGE = "#1e2129"
PICTURES = sorted(
    [*ROOT.glob("docs/images/*"), *ROOT.glob("examples/results/*.svg"), *ROOT.glob("examples/results/*.png")]
)
DRAWN = [path for path in PICTURES if path.name != "architecture.svg"]  # which is drawn by hand

TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
# Machado, Oliveira and Fernandes (2009), for the whole loss of one kind of cones, on linear RGB.
VISION = {
    "usual": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


@pytest.fixture
def plots(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("plots")


def rgb(color):
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def linear(color):
    return np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)


def lab(light):
    """CIELAB of linear RGB."""
    x = np.clip(light, 0, 1) @ TO_XYZ.T / TO_XYZ.sum(1)
    x, y, z = np.where(x > 216 / 24389, np.cbrt(x), (24389 / 27 * x + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def hue_rotated(color):
    """CSS's `hue-rotate(180deg)`: of a vector, twice its luma on every channel, minus itself."""
    return np.clip(2 * color @ np.array([0.213, 0.715, 0.072]) - color, 0, 1)


def at_night(color):
    """What `stylesheets/pictures.css` makes of a colour on the dark page: inverted, and never darker than the page."""
    return 1 - (1 - hue_rotated(1 - color)) * (1 - rgb(DARK_PAGE))


def contrast(a, b):
    """Of two colours, as WCAG has it."""
    dark, light = sorted(float(linear(color) @ TO_XYZ[1]) + 0.05 for color in (a, b))
    return light / dark


@pytest.mark.parametrize("page", ["#ffffff", DARK_PAGE])
@pytest.mark.parametrize("vision", VISION)
def test_any_two_colours_are_told_apart(plots, page, vision):
    shown = [rgb(color) if page == "#ffffff" else at_night(rgb(color)) for color in plots.PALETTE]
    seen = [lab(linear(color) @ VISION[vision].T) for color in shown]
    apart = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert len(plots.PALETTE) == 8
    assert min(apart) > 15  # 2 is just seen, and matplotlib's own ten have 5
    assert min(contrast(color, rgb(page)) for color in shown) > 3


def test_the_site_makes_pictures_dark_as_the_test_does():
    style = (ROOT / "docs" / "stylesheets" / "pictures.css").read_text()
    assert "filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen" in style


@pytest.mark.parametrize("path", [p for p in DRAWN if p.suffix == ".svg"], ids=lambda p: p.name)
def test_a_picture_has_colours_of_the_palette_alone(plots, path):
    used = set(re.findall(r"#[0-9a-f]{6}\b", path.read_text()))
    grays = {color for color in used if color[1:3] == color[3:5] == color[5:7]}
    assert used - grays <= set(plots.PALETTE)


@pytest.mark.parametrize("path", PICTURES, ids=lambda p: p.name)
def test_its_letters_are_read_on_a_phone(plots, path):
    if path.suffix == ".svg":
        text = path.read_text()
        width = float(re.search(r'viewBox="0 0 ([\d.]+)', text)[1])
        sizes = [float(x) for x in re.findall(r"(?:font: |font-size: )([\d.]+)px", text)]
    else:
        with Image.open(path) as image:
            width, sizes = image.width / image.info["dpi"][0] * 72, [plots.STYLE["legend.fontsize"]]
    assert sizes
    assert min(sizes) * PHONE / width >= 8 - 1e-3


def rows_of(name):
    with (ROOT / "examples" / "results" / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v if k in ("rule", "optimizer") else float(v) for k, v in row.items()} for row in rows]


def json_of(name):
    return json.loads((ROOT / "examples" / "results" / name).read_text())


def one_point(rows, **same):
    return [row for row in rows if all(row[name] == value for name, value in same.items())][:1]


def demo(module):
    run = module.Curve([20], [1.5], [2.9])
    return (dict.fromkeys(module.OPTIMIZERS, run),)


def ablation(module):
    rows = json_of("ablation.json")["variants"][:1]
    return ([row | {"evaluated": row["evaluated"][:1], "held_out": row["held_out"][:1]} for row in rows],)


def autoencoder_kfac(module):
    none = {"steps": None, "seconds": None, "ms": float("nan"), "losses": [120.0, float("nan")]}
    batches = [{"batch": batch, "method": name, "steps": None} for batch in module.BATCHES for name in module.TRIALS]
    return [dict.fromkeys(module.TRIALS, none)], batches


def monitor(module):
    return (rows_of("monitor.csv")[:1],)


def neumann_batch_sizes(module):
    names, batch = list(module.OPTIMIZERS), max(module.LIMITS)
    return ([{"optimizer": n, "batch": batch, "steps": 40.0 if n == names[0] else float("inf")} for n in names],)


def large_batch_adascale(module):
    points = [{"rule": "AdaScale", "scale": s, "step": 10.0, "gain": 1.0, "loss": 1.0} for s in module.SCALES]
    ends = [{"rule": "AdaScale", "scale": s, "loss": 1.0} for s in module.SCALES]
    return [*ends, {"rule": "linear", "scale": 2, "loss": float("inf")}], points


@pytest.mark.parametrize(
    "short",
    [demo, ablation, autoencoder_kfac, monitor, neumann_batch_sizes, large_batch_adascale],
    ids=lambda f: f.__name__,
)
def test_a_short_run_is_seen(short, plots, tmp_path, monkeypatch):
    module, kept = importlib.import_module(short.__name__), {}
    monkeypatch.setattr(module, "save", lambda figure, path: kept.update(figure=figure))
    getattr(module, "plot", getattr(module, "draw", None))(*short(module), tmp_path / "picture.svg")
    plots.save(kept["figure"], tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").stat().st_size > 1000
    drawn = 0
    for axis in kept["figure"].axes:
        (left, right), (low, high) = sorted(axis.get_xlim()), sorted(axis.get_ylim())
        for line in axis.get_lines():
            x, y = (np.asarray(values, float) for values in line.get_data())
            inside = (left <= x) & (x <= right) & (low <= y) & (y <= high)
            assert len(x) != 1 or line.get_marker() not in (None, "None", "")
            drawn += int(inside.any())
    assert drawn


def test_the_legend_says_which_line_has_no_value(plots):
    _, (axis,) = plots.panels(1)
    plots.curve(axis, [1, 2], [None, float("nan")], "Adam")
    plots.curve(axis, [1, 2], [3.0, None], "K-FAC")
    assert axis.get_legend_handles_labels()[1] == ["Adam (no value)", "K-FAC"]
    assert axis.get_lines()[1].get_marker() == "o"

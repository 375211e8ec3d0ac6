"""How every picture of this repository looks: one palette, letters that a phone shows, and plots of short runs.

The colours are told apart by people with each of the three kinds of colour blindness, on a white page and on a dark
one, where the site inverts a picture's lightness. `tests/test_pictures.py` measures both.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

__all__ = ["MARKERS", "PALETTE", "curve", "panels", "plain_log", "save"]

GRAY, BLUE, RED, GOLD, VIOLET, RUST, BROWN, INK = PALETTE = (
    *("#888888", "#1f6fb4", "#ea705a", "#b08400"),
    *("#a766fe", "#9a4000", "#5e2101", "#0f0135"),
)
"""The first is for what others are compared with."""
MARKERS = "os^vDPX*"
WIDTH = 5.5
"""Inches. Letters of 9 points are 8 pixels on a phone that is 390 pixels wide."""
STYLE = {
    "axes.grid": True,
    "axes.prop_cycle": mpl.cycler(color=PALETTE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.size": 10,
    "grid.alpha": 0.25,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: small files, and letters that can be searched
    "svg.hashsalt": "precond",  # the same data gives the same file
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}


def panels(count: int, height: float = 2.7, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, one below the other, each of this height in inches."""
    mpl.rcParams.update(STYLE)
    figure = Figure(figsize=(WIDTH, height * count + 0.3), layout="constrained")
    return figure, list(figure.subplots(count, 1, squeeze=False, **options)[:, 0])


def curve(axis: Axes, x: Iterable[float], y: Iterable[float | None], label: str | None = None, **style: Any) -> None:
    """Draw a line through the values that are numbers: one alone is a dot, and without any the legend says so."""
    found = [(a, b) for a, b in zip(x, y, strict=False) if b is not None and math.isfinite(b)]
    if len(found) == 1:
        style = {"marker": "o"} | style
    if not found and label:
        label += " (no value)"
    axis.plot([a for a, _ in found], [b for _, b in found], label=label, **style)


def plain_log(*axes: Any, ticks: Sequence[float] = ()) -> None:
    """Label axes with a logarithmic scale by plain numbers: 1, 2, 5, 10, or those that are given."""
    for axis in axes:
        if not axis.axes.dataLim.minpos.min() < math.inf:
            continue  # nothing is drawn
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        if ticks:
            axis.set_ticks(list(ticks))
        else:
            low, high = axis.get_view_interval()
            few = low > 0 and high / low > 100
            axis.set_major_locator(LogLocator(subs=(1.0,) if few else (1.0, 2.0, 5.0)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def save(figure: Figure, path: Path) -> None:
    """Write a picture, with a white ground, which the site makes dark at night."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(path, dpi=150, metadata=metadata)

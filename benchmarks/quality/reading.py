"""What the trials of a task say: targets, steps and seconds to them, and what the documented number costs."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.quality.optimizers import METHODS
from benchmarks.quality.train import BINS, Trial

SEARCH_SEED, SMOOTH = 0, 3
"""The seed of the search; the bins whose mean is the smoothed loss."""


class Reached(NamedTuple):
    """How long it took to a loss, as a part of the task's steps, and in seconds of a processor; infinite for never.

    Attributes:
      steps: the median over the seeds, with the better length of the schedule.
      seconds: the same.
      least, most: of the steps over the seeds.
    """

    steps: float
    seconds: float
    least: float
    most: float


def smoothed(trial: Trial) -> list[float]:
    """The mean of each bin and the two before it; infinite where a loss was not finite."""
    losses = [math.inf if x is None else x for x in trial.losses]
    return [statistics.fmean(losses[max(i + 1 - SMOOTH, 0) : i + 1]) for i in range(len(losses))]


def final(trial: Trial) -> float:
    """The last smoothed loss; infinite for a run that failed."""
    return smoothed(trial)[-1]


def searched(name: str, trials: Sequence[Trial], length: float = 1.0) -> dict[float, Trial]:
    """The trials of the search, by their number; a number that the pages advise was not drawn."""
    found = [t for t in trials if (t.optimizer, t.seed, t.length) == (name, SEARCH_SEED, length)]
    return {t.number: t for t in found if t.number != METHODS[name].documented}


def chosen(name: str, trials: Sequence[Trial], length: float) -> float | None:
    """The number that came out of the search with the lowest loss."""
    found = {number: final(t) for number, t in searched(name, trials, length).items()}
    return min(found, key=lambda number: found[number], default=None)


def edges(name: str, trials: Sequence[Trial]) -> tuple[float, float]:
    """The least and the largest number of the search: beyond them might be a better one."""
    return min(searched(name, trials)), max(searched(name, trials))


def seeds_of(name: str, trials: Sequence[Trial], length: float = 1.0, of: str | None = None) -> list[Trial]:
    """The trials of the number chosen for it, or for another method, with seeds that the search has not seen."""
    those = [t for t in trials if (t.optimizer, t.length) == (name, length) and t.seed != SEARCH_SEED]
    return [t for t in those if t.number == chosen(of or name, trials, length)]


def last(name: str, trials: Sequence[Trial]) -> float:
    """The median of the last losses; infinite where there is no trial."""
    found = [final(t) for t in seeds_of(name, trials)]
    return statistics.median(found) if found else math.inf


def target(trials: Sequence[Trial], name: str | None = None) -> tuple[str, float]:
    """The loss that every seed of the best first-order method comes down to, or of the one that is named."""
    names = [name] if name else [n for n, method in METHODS.items() if method.first_order]
    chosen = min(names, key=lambda name: last(name, trials))
    return chosen, max((final(t) for t in seeds_of(chosen, trials)), default=math.nan)


def part_to(trial: Trial, goal: float) -> float:
    """The part of the task's steps after which the smoothed loss is at most the goal."""
    return next((i + 1 for i, loss in enumerate(smoothed(trial)) if loss <= goal), math.inf) / BINS


def seconds_of(name: str, trials: Sequence[Trial]) -> float:
    """Of a full run: the median over all trials, since what else the machine does falls on some of them."""
    return statistics.median(t.seconds * BINS / len(t.losses) for t in trials if t.optimizer == name)


def to_target(name: str, trials: Sequence[Trial], goal: float, of: str | None = None) -> Reached:
    """With the best number, its own or that of another method, and the better of the lengths of the schedule."""
    found = [Reached(*[math.inf] * 4)]
    for length in {t.length for t in trials}:
        parts = [part_to(t, goal) for t in seeds_of(name, trials, length, of)]
        if parts:
            median = statistics.median(parts)
            found.append(Reached(median, median * seconds_of(name, trials), min(parts), max(parts)))
    return min(found)


def documented(name: str, trials: Sequence[Trial]) -> Trial | None:
    """The trial at the number that the pages advise: AdamW's best rate, if the method has none of its own."""
    if name == "nesterov":  # AdamW's rate says nothing of it
        return None
    number = METHODS[name].documented or chosen("adamw", trials, 1.0)
    whole = [t for t in trials if (t.optimizer, t.number, t.seed, t.length) == (name, number, SEARCH_SEED, 1.0)]
    return whole[0] if whole else None


def slowdown(name: str, trials: Sequence[Trial]) -> float:
    """Steps at the documented number by those at the best, in the search, to the last loss at the documented one."""
    usual, best = documented(name, trials), searched(name, trials).get(chosen(name, trials, 1.0))
    if usual is None or best is None:
        return math.nan
    return part_to(usual, final(usual)) / part_to(best, final(usual)) if math.isfinite(final(usual)) else math.inf

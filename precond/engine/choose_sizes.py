"""Choose the few sizes in which factors of many sizes are refreshed."""

import itertools
import math
from collections.abc import Mapping

__all__ = ["choose_sizes"]

SIZES = 8
"""The largest number of sizes that are compiled.

The compiler for TPUs needs long for every large size. With 8 in place of 40 sizes a CPU traces and compiles an update
of Shampoo in a sixth less time, and an update that refreshes all roots takes a seventh longer
(benchmarks/results/many.json). By default an update refreshes a twentieth of them.
"""
NEAR = 64
"""A size joins another one that is larger by no more than a 64th, such as the 257 of a layer of 256 with a bias."""


def choose_sizes(counts: Mapping[int, int]) -> dict[int, int]:
    """Find for each size of factors the size to which they are padded.

    Sizes that are almost the same become one. If there are too many all the same, those are chosen with which a refresh
    takes the fewest operations. A factor of d rows takes about $d^3$.

    Args:
      counts: the number of factors by size.

    Examples:
      >>> choose_sizes({256: 4, 257: 2, 768: 1})
      {768: 768, 257: 257, 256: 257}
    """
    joined: dict[int, int] = {}
    target = 0
    for d in sorted(counts, reverse=True):
        target = target if d < target <= d + d // NEAR else d
        joined[d] = target
    many: dict[int, int] = dict.fromkeys(joined.values(), 0)
    for d, target in joined.items():
        many[target] += counts[d]
    few = _fewest_operations(many)
    return {d: few[target] for d, target in joined.items()}


def _fewest_operations(counts: Mapping[int, int]) -> dict[int, int]:
    """Split the sorted sizes into at most `SIZES` runs with the fewest operations. A run has its largest size."""
    sizes = sorted(counts)
    if len(sizes) <= SIZES:
        return {d: d for d in sizes}
    before = [0, *itertools.accumulate(counts[d] for d in sizes)]  # the number of factors below each size
    # best[j] is the least cost of the first j sizes in the runs so far. begins[k][j] is where the last of k + 1 runs
    # begins.
    best, begins = [0.0, *[math.inf] * len(sizes)], []
    for _ in range(SIZES):
        ends = [(math.inf, 0)]
        for j in range(1, len(sizes) + 1):
            work = sizes[j - 1] ** 3
            ends.append(min((best[i] + (before[j] - before[i]) * work, i) for i in range(j)))
        best = [cost for cost, _ in ends]
        begins.append([i for _, i in ends])
    found, end = {}, len(sizes)
    for begin in reversed(begins):
        start = begin[end]
        found |= dict.fromkeys(sizes[start:end], sizes[end - 1])
        end = start
    return found

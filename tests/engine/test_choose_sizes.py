"""The few sizes that are compiled: the best choice of all."""

import itertools

import numpy as np
import pytest

from precond.engine.choose_sizes import choose_sizes


def cost(counts, found):
    return sum(n * found[d] ** 3 for d, n in counts.items())


def best(counts, most):
    """The least cost of all choices of so many sizes, among which the largest must be."""
    *smaller, largest = sorted(counts)
    choices = [(*some, largest) for k in range(most) for some in itertools.combinations(smaller, k)]
    return min(cost(counts, {d: min(x for x in chosen if x >= d) for d in counts}) for chosen in choices)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_choice_takes_fewer_operations(monkeypatch, seed):
    monkeypatch.setattr("precond.engine.choose_sizes.SIZES", 3)
    rng = np.random.default_rng(seed)
    counts = {int(d): int(rng.integers(1, 9)) for d in 4 * rng.choice(np.arange(1, 16), 8, replace=False)}
    found = choose_sizes(counts)
    assert len(set(found.values())) <= 3
    assert all(size >= d for d, size in found.items())
    assert cost(counts, found) == best(counts, 3)


def test_sizes_that_are_almost_the_same_are_one():
    found = choose_sizes({64: 1, 65: 1, 66: 1, 128: 1, 131: 1})
    assert found == {64: 64, 65: 66, 66: 66, 128: 128, 131: 131}

"""Minimax polynomials: each is the best of its degree, and together they reach the tolerance on all of an interval."""

import json
from pathlib import Path

import numpy as np
import pytest

from precond.linalg.minimax_steps import minimax_step, minimax_steps

TABLE = json.loads((Path(__file__).parent / "minimax.json").read_text())
ROOTS = [1, 2, 3, 4, 6, 8]
LOWS = [1e-2, 1e-4, 1e-6, 1e-8, 1e-10]


def grid(p, low, high, points=100_001):
    """Points of an interval, dense at its ends on the scale of the root, and their roots."""
    ends = low ** (1 / p), high ** (1 / p)
    root = ends[0] + (ends[1] - ends[0]) * (1 - np.cos(np.linspace(0, np.pi, points))) / 2
    return root**p, root


def peaks(p, low, high, coefficients):
    """The largest magnitude of the error between each two of its changes of sign."""
    x, root = grid(p, low, high)
    error = 1 - root * np.polynomial.polynomial.polyval(x, coefficients)
    sides = np.split(np.abs(error), np.flatnonzero(np.diff(error >= 0)) + 1)
    return np.asarray([side.max() for side in sides])


def intervals(p, low, steps, tolerance):
    """For which interval each step should have been made: where those before it lead, and a little more."""
    slack, ends = tolerance ** (1 / 3) / 2, (low, 1.0)
    for step in steps:
        yield step, ends[0] * (1 - slack), ends[1] * (1 + slack)
        ends = (1 - step.error) ** p, (1 + step.error) ** p


@pytest.mark.parametrize("p", ROOTS)
@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("low", LOWS)
def test_a_step_is_the_best_of_its_degree_its_error_alternates_in_two_points_more(p, degree, low):
    step = minimax_step(p, low, 1.0, degree)
    found = peaks(p, low, 1.0, step.coefficients)
    assert len(found) == degree + 2  # Chebyshev's theorem: with these no other polynomial does better
    np.testing.assert_allclose(found, step.error, rtol=3e-8)


@pytest.mark.parametrize("p", ROOTS)
@pytest.mark.parametrize("low", LOWS)
def test_every_step_of_a_composite_is_the_best_for_where_those_before_it_lead(p, low):
    steps = minimax_steps(p, low, 1e-6)
    gentle = sum(len(step.coefficients) == 2 for step in steps)
    assert [len(step.coefficients) for step in steps] == [2] * gentle + [3] * (len(steps) - gentle)
    assert gentle == 3 if low < 1e-5 else 1 <= gentle <= 3
    for step, start, end in intervals(p, low, steps, 1e-6):
        found = peaks(p, start, end, step.coefficients)
        assert len(found) == len(step.coefficients) + 1
        np.testing.assert_allclose(found, step.error, rtol=1e-8, atol=1e-14)  # of errors near rounding it is a part


@pytest.mark.parametrize("p", ROOTS)
@pytest.mark.parametrize("low", LOWS)
@pytest.mark.parametrize("tolerance", [1e-2, 1e-6, 1e-12])
def test_the_composition_reaches_the_tolerance_on_all_of_the_interval(p, low, tolerance):
    steps = minimax_steps(p, low, tolerance)
    x, root = grid(p, low, 1.0)
    m, inverse = x, np.ones_like(x)
    for step, start, end in intervals(p, low, steps, tolerance):
        assert start < m.min() <= m.max() < end  # where the step was made for
        h = np.polynomial.polynomial.polyval(m, step.coefficients)
        m, inverse = m * h**p, inverse * h
    assert all(step.error > tolerance for step in steps[:-1])  # none that is not needed
    assert steps[-1].error <= tolerance
    assert np.abs(1 - root * inverse).max() <= tolerance + 1e-14


@pytest.mark.parametrize("p", ROOTS)
@pytest.mark.parametrize("tolerance", [1e-6, 1e-12])
def test_no_coefficients_are_large_not_even_on_an_interval_of_almost_no_length(p, tolerance):
    for low in [*LOWS, 0.5, 0.9]:
        for step in minimax_steps(p, low, tolerance):
            assert max(np.abs(step.coefficients)) < 13


def test_lower_conditions_and_larger_tolerances_need_fewer_steps():
    for p in ROOTS:
        by_low = [len(minimax_steps(p, low, 1e-6)) for low in LOWS]
        by_tolerance = [len(minimax_steps(p, 1e-6, tolerance)) for tolerance in (1e-1, 1e-3, 1e-6, 1e-12)]
        assert by_low == sorted(by_low)
        assert by_tolerance == sorted(by_tolerance)
    assert len(minimax_steps(4, 1e-6, 1e-6)) == 7


@pytest.mark.parametrize("p", TABLE["steps"])
@pytest.mark.parametrize("low", TABLE["steps"]["4"])
def test_steps_are_those_of_the_table_in_high_precision(p, low):
    expected = TABLE["steps"][p][low]
    steps = minimax_steps(int(p), float(low), TABLE["tolerance"])
    assert len(steps) == len(expected)
    # For p = 1 the next interval begins at 1 less the error: at 1e-10 that is known to a millionth.
    accuracy = 1e-9 if int(p) > 1 else 1e-6
    for step, exact in zip(steps, expected, strict=True):
        np.testing.assert_allclose(step.coefficients, exact["coefficients"], rtol=accuracy)
        np.testing.assert_allclose(step.error, exact["error"], rtol=accuracy, atol=1e-14)


def test_the_root_of_a_point_takes_a_constant():
    step = minimax_step(2, 0.999999, 1.000001, degree=0)
    np.testing.assert_allclose(step.coefficients, [1.0], rtol=1e-11)


@pytest.mark.parametrize(("low", "tolerance"), [(1e-13, 1e-6), (0.0, 1e-6), (-1.0, 1e-6), (1e-2, 1e-14), (1e-2, 0.0)])
def test_beyond_float64_there_are_none(low, tolerance):
    with pytest.raises(ValueError, match="beyond float64"):
        minimax_steps(2, low, tolerance)


def test_steps_are_made_once():
    assert minimax_steps(4, 1e-6, 1e-6) is minimax_steps(4, 1e-6, 1e-6)

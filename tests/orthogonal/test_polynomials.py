"""The sets of polynomials: as published, the best there are, and where they leave singular values."""

import numpy as np
import pytest

from precond.orthogonal import OddPolynomial, cubic, deepseek, dion, jordan, polar_express
from precond.orthogonal.polynomials import check_polynomials

SETS = {
    "jordan": jordan(),
    "dion": dion(),
    "polar_express": polar_express(),
    "polar_express_8": polar_express(8),
    "deepseek": deepseek(),
    "cubic": cubic(),
}


def polynomials_of(s, polynomials):
    for a, b, c in polynomials:
        s = a * s + b * s**3 + c * s**5
    return s


def test_the_polar_express_is_the_published_one():
    published = [
        (8.2051, -22.9019, 16.4607),
        (4.0664, -2.8612, 0.5184),
        (3.9096, -2.8234, 0.5250),
        (3.2856, -2.4153, 0.4853),
        (2.2779, -1.6198, 0.3985),
        (1.8726, -1.2307, 0.3585),
        (1.8564, -1.2132, 0.3568),
        (1.875, -1.25, 0.375),
        (1.875, -1.25, 0.375),
    ]
    np.testing.assert_allclose(polar_express(9), published, atol=1.01e-4)


def test_the_other_sets_are_the_published_ones():
    quintic, last = (3.4445, -4.7750, 2.0315), (2.0, -1.5, 0.5)
    assert jordan() == (quintic,) * 5
    assert deepseek() == (quintic,) * 8 + (last,) * 2
    assert dion() == (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    )
    assert cubic() == (
        (3.3657, -3.3421, 0),
        (2.5744, -1.4957, 0),
        (2.5369, -1.4313, 0),
        (2.4419, -1.2764, 0),
        (2.2230, -0.9631, 0),
    )


def test_above_low_eight_steps_of_the_polar_express_converge_and_below_it_values_only_grow():
    above, below = np.geomspace(1e-3, 1, 10_001), np.geomspace(1e-8, 1e-7, 11)
    assert np.abs(1 - polynomials_of(above, polar_express(8))).max() < 1e-4
    growth = np.prod([p.linear for p in polar_express(8)])
    np.testing.assert_allclose(polynomials_of(below, polar_express(8)), growth * below, rtol=1e-3)


@pytest.mark.parametrize("low", [1e-1, 1e-2, 1e-3])
def test_without_cushion_and_safety_each_step_is_the_best_for_where_those_before_it_lead(low):
    s = np.geomspace(low, 1, 200_001)
    for steps in range(1, 7):
        values = polynomials_of(s, polar_express(steps, low=low, cushion=0.0, safety=1.0))
        worst = np.abs(1 - values).max()
        # Chebyshev: of an odd polynomial of degree 5, four extremes that alternate; each step multiplies them.
        reached = np.abs(1 - values) > worst - 1e-6
        assert steps > 1 or np.count_nonzero(np.diff(np.flatnonzero(reached)) > 1) == 3
        np.testing.assert_allclose([1 - values.min(), values.max() - 1], worst, rtol=1e-3, atol=1e-12)
    assert worst < 1e-3


def test_all_sets_end_near_one_and_those_that_converge_at_it():
    s = np.geomspace(0.05, 1, 10_001)
    for name, polynomials in SETS.items():
        values = polynomials_of(s, polynomials)
        assert 0.6 < values.min() <= values.max() < 1.35, name
    for polynomials, bound in [(polar_express(9), 1e-12), (deepseek(), 1e-3)]:
        assert np.abs(polynomials_of(s, polynomials) - 1).max() < bound


def test_what_is_no_set_of_polynomials_is_refused():
    assert check_polynomials(np.asarray([[1.5, -0.5]])) == (OddPolynomial(1.5, -0.5),)
    assert check_polynomials([[1.5, -0.5], (2, -1.5, 0.5)]) == (OddPolynomial(1.5, -0.5), OddPolynomial(2.0, -1.5, 0.5))
    for wrong in ("jordan", (1.5, -0.5), [(1.0,)], None, 3):
        with pytest.raises(TypeError, match="two or three coefficients"):
            check_polynomials(wrong)
    with pytest.raises(TypeError, match="Call this function"):
        check_polynomials(jordan)
    with pytest.raises(TypeError, match="must be a number"):
        check_polynomials([("a", "b")])
    with pytest.raises(ValueError, match="at least one step"):
        check_polynomials(())
    with pytest.raises(ValueError, match="steps=0"):
        jordan(0)
    with pytest.raises(ValueError, match=r"low=1\.0"):
        polar_express(low=1.0)

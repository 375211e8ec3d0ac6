"""What was measured stays within the bounds that the project has set."""

import pytest

from benchmarks import measure


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("precond.shampoo", 25), ("precond.soap", 25), ("precond.kl_shampoo", 25)],
)
def test_many_shapes_and_many_models(name, seconds):
    found = measure.load("many")
    assert sum(found["compile"][name].values()) <= seconds  # for 24 shapes
    assert found["vmap"][name]["eight_to_one"] <= 12


@pytest.mark.parametrize(("name", "most"), [("precond.shampoo", 0.61), ("precond.shampoo, staggered", 0.68)])
def test_a_step_takes_so_much_of_the_time_of_the_best_peer(name, most):
    assert measure.load("step")["ratios"][name]["mean_time_to_best_peer"] <= most


def test_shampoo_compiles_at_least_fourteen_times_faster_than_the_best_peer():
    assert measure.load("compile")["times_faster_than_the_best_peer"]["precond.shampoo"] >= 14

"""What was measured stays within the bounds that this project has set itself."""

import json

import pytest

from tests.test_documents import ROOT


def results(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", ["precond.shampoo", "precond.kl_shampoo"])
def test_many_shapes_and_many_models(name):
    found = results("many")
    assert sum(found["compile"][name].values()) <= 25  # seconds for 24 shapes
    assert found["vmap"][name]["eight_to_one"] <= 12


@pytest.mark.parametrize("name", ["precond.shampoo", "precond.shampoo, staggered"])
def test_a_step_takes_less_than_two_thirds_of_the_best_peer(name):
    assert results("step")["ratios"][name]["mean_time_to_best_peer"] <= 2 / 3

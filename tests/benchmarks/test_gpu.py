"""What is measured on a GPU runs on a CPU, too, so that it does not break unnoticed; only its times mean nothing."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.ahead import models
from benchmarks.gpu import products, refreshes, training

pytestmark = pytest.mark.platforms


def test_every_precision_is_multiplied_in_or_says_why_not():
    rows = {row["precision"]: row for row in products.rows(((2, 8),), repeats=1)}
    assert set(rows) == set(products.PRECISIONS)
    assert rows["HIGHEST"]["error_in_float32_roundings"] < 8
    assert all("failed" in row or row["ms"] > 0 for row in rows.values())


def test_every_method_refreshes_and_its_result_is_good():
    rows = list(refreshes.rows(((2, 16),), repeats=1))
    assert [row["method"] for row in rows] == ["composite", *refreshes.ROOTS, *refreshes.BASES]
    for row in rows:
        assert "failed" not in row, row
        assert row.get("residual", 0) < 0.5
        assert row.get("off_orthogonal", 0) < 1e-5


CASES = training.cases("gpt-small")


# The others are the same optimizers with other arguments.
QUICK = ("shampoo", "soap", "muon")
TRACED = [name for name, (_, options) in CASES.items() if options is training.CUBLAS]


@pytest.mark.parametrize("name", [pytest.param(x, marks=[pytest.mark.slow] * (x not in QUICK)) for x in TRACED])
def test_every_case_can_be_traced(name):
    model = models.MODELS["gpt-small"]
    make, _ = CASES[name]
    params, batch = model.shapes(), model.batch(1)
    assert jax.tree.leaves(training.lowered(model, make(), params, batch)[0].in_avals)


def test_a_batch_has_something_to_learn():
    model = models.MODELS["gpt-small"]
    tokens, targets = next(training.batches(model, sequences=2))
    assert tokens.shape == targets.shape == (2, 512)
    assert jnp.mean(targets == (31 * tokens + 7) % 1009) > 0.85

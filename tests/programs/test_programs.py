"""The programs in examples/programs: each trains with AdamW, and with one line changed."""

import importlib
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "examples" / "results" / "programs.json"
# How many steps are enough for the loss to fall, and which optimizers the slow tests try, too.
CASES = {
    "sharded_transformer": (20, ["SOAP"]),
    "nnx_partitioned": (20, []),
    "batch_norm, shard_map": (24, ["SOAP"]),
    "batch_norm, pmap": (24, []),
    "equinox_module": (48, ["SOAP"]),
    "haiku_dicts": (48, ["K-FAC, its own rate"]),
    "lora": (48, ["KL-Shampoo"]),
    "gan": (100, []),
    "ppo_scan": (8, []),
    "ppo_kfac": (12, ["K-FAC, its own rate"]),
    "pinn": (64, ["SOAP"]),
    "vmc": (48, ["SOAP"]),
}
# What training shows of these is shown by other programs. They run for two steps, with the line that changes.
ALIKE = {
    "nnx_partitioned": "Shampoo",
    "batch_norm, pmap": "Shampoo",
    "ppo_scan": "Shampoo",
    "ppo_kfac": "K-FAC, its own rate",
    "vmc": "Shampoo",
}
RUNS = [
    pytest.param(name, tx, marks=[pytest.mark.slow] * (tx != "Shampoo" or name in ALIKE), id=f"{name}-{tx}")
    for name, (_, more) in CASES.items()
    for tx in ("Shampoo", "AdamW", *more)
]


@pytest.fixture(scope="module")
def table():
    """The module, which imports all programs."""
    folder = str(ROOT / "examples" / "programs")
    sys.path.insert(0, folder)
    yield importlib.import_module("table")
    sys.path.remove(folder)


def optimizers_of(table, name):
    return {optimizer: tx for optimizer, _, tx in table.optimizers(table.PROGRAMS[name][0])}


@pytest.mark.parametrize(("name", "optimizer"), RUNS)
def test_the_loss_falls(table, name, optimizer):
    steps = CASES[name][0]
    losses = table.PROGRAMS[name][1](optimizers_of(table, name)[optimizer], steps, 0)
    assert len(losses) == steps
    assert np.all(np.isfinite(losses))
    quarter = steps // 4
    assert np.mean(losses[-quarter:]) < 0.9 * np.mean(losses[:quarter])


@optax.stateless
def nan_where_nothing_moves(updates, params):
    moves = sum(jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(updates)) > 0
    return jax.tree.map(lambda x: jnp.where(moves, x, jnp.nan), updates)


@pytest.mark.parametrize(("name", "optimizer"), ALIKE.items(), ids=ALIKE)
def test_it_runs(table, name, optimizer, monkeypatch):
    if name == "nnx_partitioned":
        monkeypatch.setattr(table.PROGRAMS[name][0], "BLOCKS", 1)
    tx = optimizers_of(table, name)[optimizer]
    checked = (lambda *layers: optax.chain(tx(*layers), nan_where_nothing_moves)) if callable(tx) else None
    losses = table.PROGRAMS[name][1](checked or optax.chain(tx, nan_where_nothing_moves), 2, 0)
    assert len(losses) == 2
    assert np.all(np.isfinite(losses))
    assert losses[0] != losses[1]


def share(state):
    """What one device has of a state, as a part of all of it."""
    arrays = [x for x in jax.tree.leaves(state) if isinstance(x, jax.Array)]
    return sum(x.addressable_shards[0].data.nbytes for x in arrays) / sum(x.nbytes for x in arrays)


@pytest.mark.parametrize(
    "optimizer", ["Shampoo", *(pytest.param(x, marks=pytest.mark.slow) for x in ("SOAP", "KL-Shampoo"))]
)
@pytest.mark.parametrize("name", ["sharded_transformer", "nnx_partitioned"])
def test_the_state_is_divided_as_that_of_adamw(table, name, optimizer):
    program, all_of_them = table.PROGRAMS[name][0], optimizers_of(table, name)

    def born(tx):
        if name == "nnx_partitioned":
            return nnx.state(program.born(tx, 0)[1], nnx.optimizer.OptState)
        return program.born(tx, jax.random.key(0))[0].opt_state

    with jax.set_mesh(program.devices()):
        adamw, ours = share(born(all_of_them["AdamW"])), share(born(all_of_them[optimizer]))
    assert 1 / 8 <= ours <= adamw
    assert ours < 1.05 / 8


def test_every_program_is_tested_and_measured(table):
    assert set(CASES) == set(table.PROGRAMS)
    files = {f.stem for f in (ROOT / "examples" / "programs").glob("*.py")} - {"table"}
    assert files == {name.split(",")[0] for name in CASES}
    measured = {(row["program"], row["optimizer"]) for row in json.loads(RESULTS.read_text())["rows"]}
    assert measured == {(name, tx) for name in CASES for tx in optimizers_of(table, name)}


def test_the_page_shows_what_was_measured(table):
    page = (ROOT / "docs" / "programs.md").read_text()
    assert table.markdown(json.loads(RESULTS.read_text())) in page

"""What pyright refuses in a user's file before anything runs; and that it knows the type of every public name."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_documents import PUBLIC, ROOMS

ROOT = Path(__file__).parent.parent

# Each line that ends in "# refused" must be an error of pyright's, and no other may be.
CODE = """
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import precond
from precond.engine import KroneckerState
from precond.roots.methods import Method, RootResult
from precond.statistics import TermOf, Statistic
from precond.linalg import Packed
from precond.transformation import transformation


def init(stack, factors) -> precond.RootState:
    return precond.RootState((), ())


def refresh(factors: jax.Array, derived, power, first) -> jax.Array:
    return factors


def misnamed_refresh(factors: jax.Array, old, power, first) -> jax.Array:
    return factors


def apply(direction: jax.Array, gradient: jax.Array, state: precond.RootState) -> tuple[jax.Array, precond.RootState]:
    return direction, state


def whiten(state: precond.RootState, axis: int, factor: jax.Array) -> jax.Array:
    return factor


def misnamed_init(blocks, factors) -> precond.RootState:
    return precond.RootState((), ())


def misnamed_apply(update: jax.Array, gradient: jax.Array, state: precond.RootState):
    return update, state


def misnamed_whiten(state: precond.RootState, place: int, factor: jax.Array) -> jax.Array:
    return factor


def misspelled_field(state: KroneckerState) -> Any:
    return state.rootz  # refused


precond.Root(init, refresh, apply, whiten, power=lambda axis: 1 / axis.order)
precond.Root(misnamed_init, refresh, apply, whiten, power=lambda axis: 1.0)  # refused
precond.Root(init, refresh, misnamed_apply, whiten, power=lambda axis: 1.0)  # refused
precond.Root(init, refresh, apply, misnamed_whiten, power=lambda axis: 1.0)  # refused
precond.Root(init, misnamed_refresh, apply, whiten, power=lambda axis: 1.0)  # refused
precond.Root(init, refresh, apply, whiten, power=lambda place: 1.0)  # refused
precond.inverse_root().refresh(factors=jnp.ones((1, 1, 1)), derived=None, power=1.0, first=jnp.asarray(True))
precond.inverse_root().refresh(factors=jnp.ones((1, 1, 1)), older=None, power=1.0, first=jnp.asarray(True))  # refused


def root(a: jax.Array, power, ridge, least: float) -> RootResult:
    return RootResult(a, a, a, a)


def misnamed_root(a: jax.Array, exponent, ridge, least: float) -> RootResult:
    return RootResult(a, a, a, a)


Method("mine()", root, None)
Method("mine()", misnamed_root, None)  # refused


def term_of(name: str, stack: jax.Array, axis: int, factors: Any, whiten: Any) -> jax.Array:
    return stack


def misnamed_term_of(name: str, stack: jax.Array, place: int, factors: Any, whiten: Any) -> jax.Array:
    return stack


good: TermOf = term_of
bad: TermOf = misnamed_term_of  # refused
statistic: Statistic = precond.outer_products()
no_statistic: Statistic = optax.scale(1.0)  # refused


class Count(NamedTuple):
    count: int
    momentum: optax.OptState


def init_count(params: optax.Params) -> Count:
    return Count(0, ())


def count_up(updates: optax.Updates, state: Count, params: optax.Params | None = None, **extra: Any):
    return updates, state._replace(count=state.count + 1)


def misspell(updates: optax.Updates, state: Count, params: optax.Params | None = None, **extra: Any):
    return updates, Count(state.cuont + 1, state.momentum)  # refused


def misplace(updates: optax.Updates, state: Count, params: optax.Params | None = None, **extra: Any):
    return updates, (state.count + 1, state.momentum)


def misname(updates: optax.Updates, old: Count, params: optax.Params | None = None, **extra: Any):
    return updates, old


transformation(init_count, count_up)
optax.chain(transformation(init_count, count_up), optax.scale(0.1))
transformation(init_count, misplace)  # refused
transformation(init_count, misname)  # refused
precond.mfac(0.1, mask=lambda params: params)
precond.mfac(0.1, mask={"kernel": True})
"""


@pytest.mark.skipif(shutil.which("pyright", path=Path(sys.executable).parent) is None, reason="pyright is not there")
def test_pyright_refuses_wrong_names_and_knows_all_types(tmp_path):
    (tmp_path / "parts.py").write_text(CODE)
    # In strict mode a name whose type is not known in full is an error.
    names = [f"import precond.{room}" for room in ROOMS if room != "views"] + [f"print({name})" for name in PUBLIC]
    (tmp_path / "names.py").write_text("\n".join(["# pyright: strict", "import precond", *names]))
    options = {
        "include": ["parts.py", "names.py"],
        "extraPaths": [str(ROOT)],
        "typeCheckingMode": "standard",
        "reportIncompatibleMethodOverride": False,  # as in pyproject.toml
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(options))
    pyright = Path(sys.executable).parent / "pyright"
    command = [pyright, "--outputjson", "--pythonpath", sys.executable, "--project", tmp_path]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    found = [(Path(x["file"]).name, x["range"]["start"]["line"], x["message"]) for x in said["generalDiagnostics"]]
    assert [x for x in found if x[0] == "names.py"] == []
    errors = {line for name, line, _ in found if name == "parts.py"}
    refused = {i for i, line in enumerate(CODE.splitlines()) if line.endswith("# refused")}
    assert errors == refused

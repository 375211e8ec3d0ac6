"""The installed Optax's own tests of contributed optimizers and of sharding, pointed at our aliases."""

import ast
import importlib.util
import pathlib
import types

import jax
import pytest

import precond
from tests import catalog


def load(name, replacements):
    """Execute the definitions of one of Optax's test modules, with some of its globals replaced.

    The replacements are in place before the first class, whose decorators read the lists of optimizers. What is not
    a definition (a change of the environment, a call of `main`) is left out.
    """
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        pytest.skip(f"this Optax comes without {name}", allow_module_level=True)
    module = types.ModuleType(name.replace("optax", "optax_own", 1))
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    for node in ast.parse(pathlib.Path(found.origin).read_text()).body:
        if isinstance(node, kinds):
            if isinstance(node, ast.ClassDef):
                vars(module).update(replacements)
            exec(compile(ast.Module([node], []), found.origin, "exec"), vars(module))
    return module


# Each KL alias has the state of its sibling; both wait for `make test-slow`.
LATE = tuple(case for case in catalog.DEFAULTS if case.name in ("kl_shampoo", "kl_soap"))
SOON = tuple(case for case in catalog.DEFAULTS + catalog.WHOLE if case not in LATE)


def contributed(cases):
    """Optax's test of contributed optimizers, for some of ours."""
    rows = tuple(
        {"opt_name": case.name, "opt_kwargs": case.kwargs, "wrapper_name": None, "wrapper_kwargs": None}
        for case in cases
    )
    replacements = {
        "_MAIN_OPTIMIZERS_UNDER_TEST": rows,
        "_ALL_OPTIMIZERS_UNDER_TEST": rows,
        "_get_opt_factory": lambda name: getattr(precond, name),
    }
    return load("optax.contrib._common_test", replacements).ContribTest


def sharded(cases):
    """Optax's test of sharding, for some of our optimizers."""
    replacements = {
        "OPTIMIZERS": {case.name: case.make(learning_rate=1.0) for case in cases},
        # It compares versions as strings, by which 0.10 is older than 0.7.2, and would skip itself.
        "jax": types.SimpleNamespace(**vars(jax) | {"__version__": "9"}),
    }
    suite = load("optax._src.sharding_test", replacements).ShardingTest
    for name in [name for name in dir(suite) if "microbatch" in name]:
        delattr(suite, name)  # of Optax alone, no optimizer in it
    return suite


class TestContrib(contributed(SOON)):
    """30,000 steps to the minimum, and all the rest."""


class TestSharding(sharded(SOON)):
    """Types in an explicit mesh."""


@pytest.mark.slow
class TestContribLate(contributed(LATE)):
    """The same for the others."""


@pytest.mark.slow
class TestShardingLate(sharded(LATE)):
    """The same for the others."""


@pytest.mark.parametrize(
    ("suite", "properties", "cases"),
    [(TestContrib, 9, SOON), (TestSharding, 3, SOON), (TestContribLate, 9, LATE), (TestShardingLate, 3, LATE)],
)
def test_the_suite_was_loaded_for_every_alias(suite, properties, cases):
    assert len(SOON + LATE) == len(catalog.DEFAULTS + catalog.WHOLE)
    assert sum(name.startswith("test_") for name in dir(suite)) >= properties * len(cases)

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


ROWS = tuple(
    {"opt_name": case.name, "opt_kwargs": case.kwargs, "wrapper_name": None, "wrapper_kwargs": None}
    for case in catalog.DEFAULTS + catalog.WHOLE
)
CONTRIB = load(
    "optax.contrib._common_test",
    {
        "_MAIN_OPTIMIZERS_UNDER_TEST": ROWS,
        "_ALL_OPTIMIZERS_UNDER_TEST": ROWS,
        "_get_opt_factory": lambda name: getattr(precond, name),
    },
)
SHARDING = load(
    "optax._src.sharding_test",
    {
        "OPTIMIZERS": {case.name: case.make(learning_rate=1.0) for case in catalog.DEFAULTS + catalog.WHOLE},
        # It compares versions as strings, by which 0.10 is older than 0.7.2, and would skip itself.
        "jax": types.SimpleNamespace(**vars(jax) | {"__version__": "9"}),
    },
)
for name in [name for name in dir(SHARDING.ShardingTest) if "microbatch" in name]:
    delattr(SHARDING.ShardingTest, name)  # of Optax alone, no optimizer in it


class TestContrib(CONTRIB.ContribTest):
    """30,000 steps to the minimum, and all the rest."""


class TestSharding(SHARDING.ShardingTest):
    """Types in an explicit mesh."""


@pytest.mark.parametrize(("suite", "properties"), [(TestContrib, 9), (TestSharding, 3)])
def test_the_suite_was_loaded_for_every_alias(suite, properties):
    assert sum(name.startswith("test_") for name in dir(suite)) >= properties * len(catalog.DEFAULTS + catalog.WHOLE)

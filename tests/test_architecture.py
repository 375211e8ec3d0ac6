"""The house rules, held: who may import whom, how long a file or a function may be, what is public."""

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

import precond

PACKAGE = Path(__file__).parent.parent / "precond"
FILES = sorted(PACKAGE.rglob("*.py"))

# Nothing imports upward, nor sideways between the rooms of one floor.
FLOORS = {
    "arguments": 0,
    "collectives": 0,
    "control_flow": 1,
    "compiled_if_eager": 0,
    "linalg": 0,
    "scopes": 0,
    "transformation": 0,
    "boxes": 0,
    "widened": 0,
    "trees": 0,
    "version": 0,
    "blocks": 1,
    "mesh": 1,
    "replicas": 1,
    "routes": 2,
    "statistics": 2,
    "orthogonal": 2,
    "roots": 2,
    "engine": 3,
    "transforms": 3,
    "large_batches": 3,
    "layers": 3,
    "checkpoints": 4,
    "diagnosis": 4,
    "host": 4,
    "metrics": 4,
    "optimizers": 4,
    "planning": 4,
    "recipes": 4,
    "contrib": 4,
    "command": 5,
    "__main__": 6,
}
RUNTIME = {"jax", "numpy", "optax", "precond", *sys.stdlib_module_names}
# The front ends for Flax, which the user imports; nothing of the library does.
FLAX = {"layers/linen.py", "layers/nnx.py"}
PRIVATE = ("optax._src", "jax._src", "flax.core", "optax.contrib._", "optax.transforms._", "optax.schedules._")


def room(file):
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports(file):
    """The modules that a file imports, anywhere in it."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            found += [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
    return found


def functions(file):
    return [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.FunctionDef)]


def body_lines(function, *, inner=False):
    """Lines of a function's body without docstrings, and without the functions defined in it unless `inner`."""
    functions = [n for n in ast.walk(function) if isinstance(n, ast.FunctionDef)]
    documented = [n.body[0] for n in functions if ast.get_docstring(n) is not None]
    skipped = documented if inner else [*documented, *(n for n in functions if n is not function)]
    gone = {line for n in skipped for line in range(n.lineno, n.end_lineno + 1)}
    return len(set(range(function.body[0].lineno, function.end_lineno + 1)) - gone)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_go_down_and_not_to_the_private_parts_of_others(file):
    mine = room(file)
    for module in imports(file):
        flax = str(file.relative_to(PACKAGE)) in FLAX and module.split(".")[0] == "flax"
        assert flax or module.split(".")[0] in RUNTIME, f"{module} is no runtime dependency"
        assert not any(module.startswith(f"precond.{f[:-3].replace('/', '.')}") for f in FLAX), f"{module} needs Flax"
        assert not module.startswith(PRIVATE), f"{module} is private to others"
        parts = module.split(".")
        if parts[0] == "precond" and len(parts) > 1 and mine != "__init__":
            other = parts[1]
            assert other == mine or FLOORS[other] < FLOORS[mine], f"{mine} imports {other}"


def test_what_computes_in_the_engine_knows_neither_a_mesh_nor_a_method():
    for name in (
        "scale_by_kronecker",
        "refresh_roots",
        "groups",
        "refresh_schedule",
        "per_block",
        "entries_in_16_bits",
    ):
        text = (PACKAGE / "engine" / f"{name}.py").read_text()
        assert not re.search(r"precond\.(mesh|roots\.methods|routes)", text), name


def test_every_room_has_its_floor():
    rooms = {room(f) for f in FILES} - {"__init__"}
    assert rooms == set(FLOORS)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_files_and_functions_stay_short_and_say_what_is_public(file):
    assert len(file.read_text().splitlines()) <= 300
    for function in functions(file):
        assert body_lines(function) <= 40, function.name
        assert body_lines(function, inner=True) <= 80, function.name
    name = ".".join(("precond", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    module = importlib.import_module(name)
    assert module.__doc__
    assert sorted(module.__all__) == sorted(set(module.__all__))
    for public in module.__all__:
        assert hasattr(module, public)


# Files that are named after what they collect. Every other file has the name of something that it exports.
COLLECTIONS = {
    *("boxes", "control_flow", "scopes"),
    *(f"arguments/{x}" for x in ("checks", "directions", "functions", "keywords", "user_trees")),
    *(f"blocks/{x}" for x in ("layer_axes", "meaning", "parameter_names", "views/matrices")),
    *("checkpoints/places", "engine/check_parts", "host/rows", "large_batches/goodput"),
    *(f"command/{x}" for x in ("model", "optimizer", "readers")),
    *(f"layers/{x}" for x in ("carriers", "front_end", "linen", "nested", "nnx")),
    *(f"linalg/{x}" for x in ("align", "divide", "lapack", "newton_schulz")),
    *("mesh/reshard", "orthogonal/polynomials", "planning/presets", "planning/report", "roots/guard"),
    *(f"recipes/{x}" for x in ("google_roots", "meta", "meta_bases", "meta_roots")),
}


def test_a_file_is_named_after_what_it_exports():
    """The name may be the plural of an export: `products` has `product`, and `groups` has `groups_of`."""

    def plain(name):
        return name.lower().replace("_", "")

    unnamed = {}
    for file in FILES:
        path = file.relative_to(PACKAGE).with_suffix("")
        if path.name.startswith("__"):
            continue
        exported = importlib.import_module(".".join(("precond", *path.parts))).__all__
        fitting = {form for x in exported for form in (plain(x), f"{plain(x)}s", plain(x).removesuffix("of"))}
        if plain(path.name) not in fitting:
            unnamed[path.as_posix()] = exported
    assert set(unnamed) == COLLECTIONS
    assert [path for path, exported in unnamed.items() if len(exported) < 2] == []


def annotations(file):
    """What arguments, results and names are annotated with, anywhere in a file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            yield node.annotation
        elif isinstance(node, ast.FunctionDef) and node.returns is not None:
            yield node.returns


def test_few_annotations_say_nothing():
    """A bare `Any` hides a misspelled field from pyright; this share only ever falls."""
    found = [annotation for file in FILES for annotation in annotations(file)]
    bare = [x for x in found if isinstance(x, ast.Name) and x.id == "Any"]
    assert len(bare) / len(found) <= 0.1


def test_an_alias_is_assembly_only():
    for file in (PACKAGE / "optimizers").glob("*.py"):
        for function in functions(file):
            assert body_lines(function) <= 30, function.name


NAMESPACES = [
    "checkpoints",
    "contrib",
    "large_batches",
    "layers",
    "orthogonal",
    "recipes",
    "replicas",
    "roots",
    "transforms",
    "views",
]
PUBLIC = [("precond", name) for name in precond.__all__] + [
    (f"precond.{space}", name) for space in NAMESPACES for name in getattr(precond, space).__all__
]


def test_what_is_public_at_the_top_is_used_often():
    """Everything else is reached through its room."""
    assert len([name for name in precond.__all__ if not inspect.ismodule(getattr(precond, name))]) <= 67


@pytest.mark.parametrize(("space", "name"), PUBLIC)
def test_a_public_function_documents_every_argument_and_has_an_example(space, name):
    thing = getattr(importlib.import_module(space) if space != "precond.views" else precond.views, name)
    if inspect.isfunction(thing):
        assert "Examples:" in thing.__doc__
        for argument in inspect.signature(thing).parameters:
            assert f" {argument}:" in thing.__doc__ or f"*{argument}:" in thing.__doc__, argument

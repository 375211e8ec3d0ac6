"""Make the model that the command line names: a preset, or a file of shapes."""

import argparse
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import jax

from precond.command.readers import dtype, whole
from precond.planning import gpt, llama, moe, vit

__all__ = ["add_model", "read_model"]

_PRESETS = {preset.__name__: preset for preset in (gpt, llama, moe, vit)}
_SIZES = {
    "width": "of the residual stream",
    "layers": "each has attention and a perceptron",
    "hidden": "width of the perceptron, or of one expert",
    "heads": "of attention",
    "kv_heads": "heads of keys and values",
    "experts": "in each layer",
    "vocabulary": "tokens",
    "context": "positions",
    "image": "pixels of one side of an image",
    "patch": "pixels of one side of a patch",
    "classes": "outputs",
}


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe a model.

    Args:
      parser: the parser of a command.
    """
    group = parser.add_argument_group("the model, by a preset and its sizes, or by a file")
    group.add_argument("--preset", choices=_PRESETS, help="needs --width and --layers")
    group.add_argument("--shapes", help='or a JSON file (- is the standard input): {"up": {"kernel": [1024, 4096]}}')
    for name, text in _SIZES.items():
        group.add_argument(_option(name), type=whole, metavar="N", help=f"{text} ({_who_takes(name)})")
    group.add_argument("--dtype", type=dtype, default="float32", help="of the parameters (default: %(default)s)")


def read_model(arguments: argparse.Namespace) -> Any:
    """Make the shapes of the parameters.

    Args:
      arguments: the arguments from a parser that `add_model` was given.

    Returns:
      A tree of `jax.ShapeDtypeStruct`.

    Raises:
      ValueError: for no model or two, sizes that the preset does not take, or a file that holds no shapes.
      OSError: for a file that cannot be read.
    """
    if (arguments.preset is None) == (arguments.shapes is None):
        raise ValueError("Name one model: --preset gpt --width 2048 --layers 20, or --shapes model.json.")
    sizes = {name: getattr(arguments, name) for name in _SIZES if getattr(arguments, name) is not None}
    if arguments.shapes is not None:
        if sizes:
            raise ValueError(f"{_option(next(iter(sizes)))} belongs to a preset: leave it out beside --shapes.")
        return _of_file(arguments.shapes, arguments.dtype)
    name = arguments.preset
    if unknown := sorted(sizes.keys() - _sizes_of(name)):
        taken = ", ".join(map(_option, _sizes_of(name)))
        raise ValueError(f"{_option(unknown[0])} is no size of --preset {name}, which takes {taken}.")
    if "width" not in sizes or "layers" not in sizes:
        raise ValueError(f"--preset {name} needs --width and --layers.")
    return _PRESETS[name](**sizes, dtype=arguments.dtype)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _sizes_of(preset: str) -> list[str]:
    return [name for name in inspect.signature(_PRESETS[preset]).parameters if name in _SIZES]


def _who_takes(name: str) -> str:
    """Return the presets that take a size, with their defaults."""
    takers = [preset for preset in _PRESETS if name in _sizes_of(preset)]
    defaults = {preset: inspect.signature(_PRESETS[preset]).parameters[name].default for preset in takers}
    return ", ".join(f"{preset}: {n}" if isinstance(n, int) else preset for preset, n in defaults.items())


def _of_file(file: str, dtype: str) -> Any:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
    except UnicodeDecodeError as error:
        raise ValueError(f"--shapes {file}: this file is not text ({error.reason}), so it cannot be JSON.") from error
    try:
        tree = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise ValueError(f"--shapes {file}: this is no JSON ({error}).") from error
    if not isinstance(tree, dict) or not tree:
        raise ValueError(f'--shapes {file}: must hold names and shapes, such as {{"up": {{"kernel": [1024, 4096]}}}}.')
    shapes = {name: _shaped(name, entry, dtype) for name, entry in tree.items()}
    if not jax.tree.leaves(shapes):
        raise ValueError(f"--shapes {file}: has names, and no shapes under them.")
    return shapes


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a dictionary of pairs, and refuse a name that comes twice."""
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"--shapes: has the name {json.dumps(twice[0])} twice in one place.")
    return dict(pairs)


def _shaped(path: str, entry: Any, dtype: str) -> Any:
    """Return an entry of the file: a shape, or names with entries of their own."""
    if isinstance(entry, dict):
        return {name: _shaped(f"{path}/{name}", below, dtype) for name, below in entry.items()}
    sizes = entry if isinstance(entry, list) else [None]
    if not all(type(n) is int and n >= 0 for n in sizes):
        advice = f"write [{entry}]" if type(entry) is int else "write the lengths of its axes, such as [1024, 4096]"
        raise ValueError(f"--shapes: {path} is {json.dumps(entry)}, which is no shape: {advice}.")
    return jax.ShapeDtypeStruct(tuple(sizes), dtype)

"""Read the words of the command line, and give a plain error if one cannot be read."""

import argparse
import math

import jax.numpy as jnp

__all__ = ["axes", "dtype", "mesh", "rate", "whole"]


def whole(word: str) -> int:
    """Read a whole number of at least 1; 1e3 is one, too.

    Raises:
      argparse.ArgumentTypeError: for anything else.

    Examples:
      >>> whole("4096"), whole("1e3")
      (4096, 1000)
    """
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not (1 <= value < math.inf and value == math.floor(value)):
        raise argparse.ArgumentTypeError(f"{word} must be a whole number of at least 1")
    return int(value)


def rate(word: str) -> float:
    """Read a positive number.

    Raises:
      argparse.ArgumentTypeError: for anything else.

    Examples:
      >>> rate("5e13")
      50000000000000.0
    """
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{word} must be a positive number, such as 5e13")
    return value


def dtype(word: str) -> str:
    """Read the name of a floating-point type of JAX.

    Raises:
      argparse.ArgumentTypeError: for anything else.

    Examples:
      >>> dtype("bfloat16")
      'bfloat16'
    """
    try:
        found = jnp.dtype(word)
    except TypeError:
        found = jnp.dtype("bool")
    if not jnp.issubdtype(found, jnp.floating):
        raise argparse.ArgumentTypeError(f"{word} must be a floating-point type: float32, bfloat16, float16 or float64")
    return found.name


def axes(word: str) -> tuple[str, ...]:
    """Read names of mesh axes, separated by commas.

    Raises:
      argparse.ArgumentTypeError: for an empty name, or one that stands twice.

    Examples:
      >>> axes("data,tensor")
      ('data', 'tensor')
    """
    names = tuple(name.strip() for name in word.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"'{word}' must be names of mesh axes, each once, such as data,tensor")
    return names


def mesh(word: str) -> dict[str, int]:
    """Read names and sizes of mesh axes.

    Raises:
      argparse.ArgumentTypeError: for anything but name=size, separated by commas.

    Examples:
      >>> mesh("data=8,tensor=4")
      {'data': 8, 'tensor': 4}
    """
    parts = [part.partition("=") for part in word.split(",")]
    names = tuple(name.strip() for name, _, _ in parts)
    if not all(names) or not all(equals for _, equals, _ in parts) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"'{word}' must be names and sizes of axes, such as data=8,tensor=4")
    return {name: whole(size) for name, (_, _, size) in zip(names, parts, strict=True)}

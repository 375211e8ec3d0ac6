"""Check that every regular expression is found in some path."""

import re
from collections.abc import Iterable
from typing import Any

from precond.arguments import shown

__all__ = ["check_patterns"]


def check_patterns(name: str, patterns: Any, paths: Iterable[str]) -> None:
    """Raise for a regular expression that is found in none of the paths.

    Args:
      name: the name of the argument that has them.
      patterns: regular expressions; a predicate is not looked at.
      paths: the paths, in one of which each pattern must be found.

    Raises:
      TypeError: for a pattern that is not a string.
      ValueError: naming the first that is not found, or that is not a regular expression.

    Examples:
      >>> check_patterns("allow_uncovered", ["embeding"], ["embedding", "head/kernel"])
      Traceback (most recent call last):
      ValueError: allow_uncovered= has 'embeding', which is found in no path: there are embedding, head/kernel.
    """
    known = list(paths)
    if callable(patterns):
        return
    if isinstance(patterns, str):
        raise TypeError(f"{name}={patterns!r}: must be a list of regular expressions, such as [{patterns!r}].")
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"{name}= has {shown(pattern)}, where a regular expression belongs.")
        try:
            found = any(re.search(pattern, path) for path in known)
        except re.error as error:
            raise ValueError(f"{name}= has {pattern!r}, which is not a regular expression: {error}.") from error
        if not found:
            some = ", ".join([*known[:5], ".."] if len(known) > 5 else known)
            raise ValueError(f"{name}= has {pattern!r}, which is found in no path: there are {some}.")

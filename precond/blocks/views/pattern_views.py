"""Choose views by patterns, and report patterns that matched nothing."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from precond.blocks.view import View, Views

__all__ = ["PatternViews"]


@dataclasses.dataclass(frozen=True)
class PatternViews:
    """Hold views by regular expressions that are searched in paths.

    Attributes:
      patterns: the regular expressions.
      read: the views themselves.
      otherwise: the views of paths in which no pattern is found. They may have patterns of their own.
    """

    patterns: tuple[str, ...]
    read: Views
    otherwise: Views

    def __call__(self, path: str, leaf: Any) -> View | None:
        """Return the view of one parameter."""
        return self.read(path, leaf)

    def __repr__(self) -> str:
        """Return the patterns."""
        return f"views by {len(self.patterns)} patterns: {', '.join(map(repr, self.patterns[:3]))}"

    def unmatched(self, paths: Sequence[str]) -> list[str]:
        """Return the patterns that are found in none of these paths.

        Args:
          paths: the paths of all parameters.

        Examples:
          >>> from precond.blocks.views import rules
          >>> rules(("kernel", None), ("kernle", None)).unmatched(["dense/kernel"])
          ['kernle']
        """
        own = [p for p in self.patterns if not any(re.search(p, path) for path in paths)]
        return own + (self.otherwise.unmatched(paths) if isinstance(self.otherwise, PatternViews) else [])

"""Choose views by regular expressions on paths."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from precond.arguments import check_function, described, shown
from precond.blocks.view import View, Views
from precond.blocks.views.default_views import default_views
from precond.blocks.views.named import named
from precond.blocks.views.pattern_views import PatternViews
from precond.blocks.views.stacked import stacked

__all__ = ["as_views", "rules"]

Rule = View | Mapping[str, Any] | Views | None


def _is_rule(rule: Any) -> bool:
    return rule is None or callable(rule) or isinstance(rule, (View, Mapping))


def _compiled(pair: Any) -> tuple[re.Pattern[str], Rule]:
    """Check a pattern and its rule as far as this is possible without a parameter."""
    if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
        raise TypeError(f"views: {shown(pair)} must be a (pattern, view) pair.")
    pattern, rule = pair
    if isinstance(pattern, bytes):
        raise TypeError(f"views: {pattern!r} is bytes, and paths are strings: write {pattern.decode()!r}.")
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(f"views: {pattern!r} is not a regular expression: {error}.") from error
    if isinstance(rule, Mapping) and not {"axes"} <= set(rule) <= set(View._fields):
        raise TypeError(
            f"views: {shown(rule)} for {pattern!r} must have `axes`, and may have `passive`, `shape` and `row`."
        )
    if not _is_rule(rule):
        raise TypeError(
            f"views: {shown(rule)} for {pattern!r} must be a precond.View, its arguments, a function, or None."
        )
    _check_arguments(pattern, rule)
    return compiled, rule


def _check_arguments(pattern: str, rule: Any) -> None:
    if callable(rule):
        check_function("views", rule, 2, f"for {pattern!r} a function of path and parameter")


@described()
def rules(*pairs: tuple[str, Rule], otherwise: Views = default_views) -> Views:
    """Return views by path: the first pattern that is found in the path decides.

    Args:
      *pairs: pairs of a regular expression, searched in the path, and what it gives: a `View`, its arguments as a
        mapping, a function of path and parameter, or None.
      otherwise: the views of paths in which no pattern is found.

    Raises:
      ValueError, TypeError: for a pattern that is not a regular expression, or a rule of another kind.

    Examples:
      >>> import jax.numpy as jnp
      >>> views = rules(
      ...     ("layers/.*kernel", View((1, 2))),
      ...     ("head", None),
      ...     ("embedding", View((0, 1), passive=(0,))),
      ... )
      >>> views("layers/mlp/kernel", jnp.zeros((12, 4, 8)))
      View(axes=(1, 2), passive=(), shape=None)
      >>> views("embedding", jnp.zeros((100, 4))).passive
      (0,)
    """
    compiled = [_compiled(pair) for pair in pairs]

    def views(path: str, leaf: Any) -> View | None:
        for pattern, rule in compiled:
            if pattern.search(path):
                if callable(rule):
                    return rule(path, leaf)
                return View(**rule) if isinstance(rule, Mapping) else rule
        return otherwise(path, leaf)

    return PatternViews(tuple(str(pattern.pattern) for pattern, _ in compiled), views, otherwise)


def as_views(views: Views | Sequence[tuple[str, Rule]] | None) -> Views:
    """Make views of what a user gives: a function, a list of pairs for `rules` (as read from JSON), or None.

    Args:
      views: as in `precond.blocked`.

    Examples:
      >>> import jax.numpy as jnp
      >>> as_views([["qkv", {"axes": [0, 2], "shape": [4, 3, 4]}]])(
      ...     "qkv/kernel", jnp.zeros((4, 12))
      ... )
      View(axes=[0, 2], passive=(), shape=[4, 3, 4])
    """
    if views is None:
        return default_views
    if views is stacked or views is named:
        name = "stacked" if views is stacked else "named"
        raise TypeError(
            f"views=precond.views.{name} is a function that makes views: call it, as in "
            f"precond.views.stacked('^layers/', axis=0) or precond.views.named(params)."
        )
    if callable(views):
        check_function("views", views, 2, "a function of path and parameter. If this function makes views, call it")
        return views
    if isinstance(views, str) or not isinstance(views, Sequence):
        raise TypeError(
            f"views={shown(views)}: expected a function of path and parameter, a list of (pattern, view) pairs, or "
            f"None for precond.views.default."
        )
    return rules(*views)

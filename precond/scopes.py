"""Name parts of a program for profilers, and for the counts of `precond.plan`. This is floor 0 of the library."""

import re
from contextlib import AbstractContextManager
from typing import Any

import jax

__all__ = ["named", "part_of"]

_DETAIL = re.compile(r"\[.*\]")
_PART = re.compile(r"precond\.(\w+(?:\[[^\]]*\])?)")


def named(part: str, detail: str = "") -> AbstractContextManager[Any]:
    """Count everything that is traced inside this context as this part.

    Args:
      part: one word.
      detail: numbers that whoever reads the program will want to know; without square brackets.

    Examples:
      >>> def double(x):
      ...     with named("refresh", "of 3"):
      ...         return 2 * x
      >>> str(jax.make_jaxpr(double)(1.0).eqns[0].source_info.name_stack)
      'precond.refresh[of 3]'
    """
    return jax.named_scope(f"precond.{part}[{detail}]" if detail else f"precond.{part}")


def part_of(stack: str, outer: str = "") -> str:
    """Find the innermost part in the names under which something was traced, or "" outside of all parts.

    The detail is that of the part, or else that of the part around it.

    Args:
      stack: the stack of names, from the outside in.
      outer: the part in which all of it stands.

    Examples:
      >>> (
      ...     part_of("jit(f)/precond.statistics/vmap(precond.refresh[of 3])/mul"),
      ...     part_of("jit(f)"),
      ... )
      ('refresh[of 3]', '')
      >>> part_of("precond.first/mul", "refresh[of 3]"), part_of("mul", "refresh[of 3]")
      ('first[of 3]', 'refresh[of 3]')
    """
    for part in _PART.findall(stack):
        outer = part if "[" in part else part + "".join(_DETAIL.findall(outer))
    return outer

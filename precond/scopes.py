"""Names for parts of a program: profilers show them, and `precond.plan` counts by them. Floor 0 of the library."""

import re
from contextlib import AbstractContextManager
from typing import Any

import jax

__all__ = ["named", "part_of"]

_PART = re.compile(r"precond\.(\w+(?:\[[^\]]*\])?)")


def named(part: str, detail: str = "") -> AbstractContextManager[Any]:
    """While it lasts, what is traced belongs to this part.

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


def part_of(stack: str) -> str | None:
    """The innermost part in the names under which something was traced, with its detail; None if there is none.

    Examples:
      >>> part_of("jit(f)/precond.statistics/vmap(precond.refresh[of 3])/mul"), part_of("jit(f)")
      ('refresh[of 3]', None)
    """
    found = _PART.findall(stack)
    return found[-1] if found else None

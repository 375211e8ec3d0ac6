"""Tell from a program whether it can be run in a trial."""

import collections
from typing import Any

__all__ = ["can_be_tried"]

_DECOMPOSE = {"eigh", "eig", "qr", "svd", "cholesky", "geqrf", "householder_product", "lu"}


def can_be_tried(program: Any, *, costly: bool = False, longest: int | None = None) -> bool:
    """Return whether a program can be run in a trial: it stays within JAX, decomposes no matrices, and is not long.

    Args:
      program: what `jax.make_jaxpr` returns.
      costly: whether it may decompose matrices.
      longest: the largest number of operations; None allows any number.

    Examples:
      >>> import jax
      >>> can_be_tried(jax.make_jaxpr(lambda x: x + x)(1.0), longest=1)
      True
      >>> can_be_tried(jax.make_jaxpr(lambda x: x + x * x)(1.0), longest=1)
      False
    """
    names = _primitives(program.jaxpr)
    leaves_jax = any(name == "shard_map" or name.endswith(("callback", "ffi_call")) for name in names)
    long = longest is not None and names.total() > longest
    return not (leaves_jax or long or (not costly and names.keys() & _DECOMPOSE))


def _primitives(jaxpr: Any) -> collections.Counter[str]:
    """Count the primitives in a program and in the programs inside it, by name."""
    found: collections.Counter[str] = collections.Counter()
    for eqn in jaxpr.eqns:
        found[eqn.primitive.name] += 1
        for value in eqn.params.values():
            for x in value if isinstance(value, tuple | list) else [value]:
                inside = getattr(x, "jaxpr", x)
                if hasattr(inside, "eqns"):
                    found += _primitives(inside)
    return found

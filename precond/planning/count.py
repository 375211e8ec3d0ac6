"""Count what a traced program computes and sends, equation by equation, without compiling it."""

import math
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from operator import or_
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxprs_in_params

from precond.scopes import part_of

__all__ = ["Count", "Key", "count_program", "shard_shape"]


class Key(NamedTuple):
    """Say how operations are counted.

    Attributes:
      part: the part of the program, as `precond.scopes.named` wrote it; "" outside of all.
      kind: "products" and "decompositions" of matrices and "elementwise" operations, in floating-point operations; the
        name of a collective, in bytes that one device receives; "loops", whose number of turns is not known.
    """

    part: str
    kind: str


Count = Counter[Key]

# Golub and Van Loan, Matrix Computations, 4th edition: 8.3.3 (with vectors), 5.2.2 (both factors), 4.2.5, 3.1, 8.6.
_DECOMPOSITIONS: dict[str, Callable[[int, int, int], Fraction | int]] = {
    "eigh": lambda m, n, k: 9 * n**3,
    "qr": lambda m, n, k: 4 * m * m * n - 2 * m * n * n + Fraction(2, 3) * n**3,
    "cholesky": lambda m, n, k: Fraction(n**3, 3),
    "lu": lambda m, n, k: Fraction(2 * n**3, 3),
    "triangular_solve": lambda m, n, k: n * n * k,
    "svd": lambda m, n, k: 14 * max(m, n) * min(m, n) ** 2 + 8 * min(m, n) ** 3,
}

# What one device of n receives, in parts of what comes out (of a ring for sums, the fewest bytes that there can be).
_COLLECTIVES: dict[str, tuple[str, Callable[[int], Fraction | int]]] = {
    "all_gather": ("all-gather", lambda n: Fraction(n - 1, n)),
    "all_gather_invariant": ("all-gather", lambda n: Fraction(n - 1, n)),
    "all_to_all": ("all-to-all", lambda n: Fraction(n - 1, n)),
    "psum": ("all-reduce", lambda n: Fraction(2 * (n - 1), n)),
    "psum_invariant": ("all-reduce", lambda n: Fraction(2 * (n - 1), n)),
    "pmax": ("all-reduce", lambda n: Fraction(2 * (n - 1), n)),
    "pmin": ("all-reduce", lambda n: Fraction(2 * (n - 1), n)),
    "reduce_scatter": ("reduce-scatter", lambda n: n - 1),
    "ppermute": ("collective-permute", lambda n: 1),
}

# Nothing is computed: numbers are moved, or made of nothing.
_MOVES = frozenset(
    [
        *("axis_index", "bitcast_convert_type", "broadcast_in_dim", "concatenate", "copy", "copy_p", "dynamic_slice"),
        *("dynamic_update_slice", "expand_dims", "gather", "iota", "optimization_barrier", "pad", "platform_index"),
        *("pvary", "reshape", "rev", "scatter", "sharding_constraint", "slice", "split", "squeeze", "stack"),
        *("stop_gradient", "transpose"),
    ]
)


def count_program(program: ClosedJaxpr, axes: dict[str, int], platform: str) -> Count:
    """Count a traced program, for one device.

    Of the branches of a condition, each part and kind counts the one with the most; of a choice by platform it counts
    the one that is run. A product of matrices is two operations for each of its multiplications. Decompositions are
    counted as in the textbook. Everything else is one operation for each number that comes out, or, in a reduction,
    that goes in.

    Args:
      program: the result of `jax.make_jaxpr`.
      axes: the sizes of the mesh's axes.
      platform: as "cpu", "cuda", "tpu".

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> found = count_program(
      ...     jax.make_jaxpr(lambda a: jnp.tanh(a @ a))(jnp.ones((3, 3))), {}, "cpu"
      ... )
      >>> {key.kind: value for key, value in found.items()}
      {'products': 54, 'elementwise': 9}
    """

    def of(jaxpr: Jaxpr, outer: str) -> Count:
        total: Count = Counter()
        known: dict[Any, int] = {}
        for eqn in _live(jaxpr)[0]:
            part = part_of(str(eqn.source_info.name_stack), outer)
            total += one(eqn, part, known)
        return total

    def one(eqn: Any, part: str, known: dict[Any, int]) -> Count:
        name, inner = eqn.primitive.name, [getattr(j, "jaxpr", j) for j in jaxprs_in_params(eqn.params)]
        _learn(eqn, known)
        if name == "cond":
            chosen = _branch(eqn, known, platform)
            branches = inner if chosen is None else [inner[chosen]]
            return reduce(or_, [of(branch, part) for branch in branches])
        if name in ("scan", "while"):
            turns = eqn.params.get("length", 1)
            found = reduce(Counter.__add__, [of(j, part) for j in inner])
            found = Counter({key: turns * n for key, n in found.items()})
            return found if name == "scan" else found + Counter({Key(part, "loops"): 1})
        if inner and not name.startswith(("reduce", "scatter")):
            return reduce(Counter.__add__, [of(j, part) for j in inner])
        kind, amount = _cost(eqn, axes)
        return Counter({Key(part, kind): amount}) if amount else Counter()

    return of(program.jaxpr, "")


def _live(jaxpr: Jaxpr) -> tuple[list[Any], set[Any]]:
    """Return the equations whose results are used, and the values that these use: the compiler drops the rest."""
    used: set[Any] = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    eqns = []
    for eqn in reversed(jaxpr.eqns):
        if not used.isdisjoint(eqn.outvars):
            eqns.append(eqn)
            inner = [getattr(j, "jaxpr", j) for j in jaxprs_in_params(eqn.params)]
            given = list(zip(eqn.invars, eqn.invars, strict=True))
            if len(inner) == 1 and len(inner[0].invars) == len(given) and eqn.primitive.name in ("jit", "shard_map"):
                within = _live(inner[0])[1]
                given = [(v, i) for v, i in zip(eqn.invars, inner[0].invars, strict=True) if i in within]
            used |= {v for v, _ in given if not isinstance(v, Literal)}
    return eqns[::-1], used


def _value(v: Any, known: dict[Any, int]) -> int | None:
    if not isinstance(v, Literal):
        return known.get(v)
    return int(v.val) if np.result_type(v.val).kind in "biu" else None


def _learn(eqn: Any, known: dict[Any, int]) -> None:
    """Note which scalars are known while the program is traced, such as whether a refresh is the first."""
    if eqn.primitive.name in ("convert_element_type", "pvary", "clamp") and len(eqn.outvars) == 1:
        values = [_value(v, known) for v in eqn.invars if not v.aval.shape]
        whole = sorted(value for value in values if value is not None)
        if len(whole) == len(eqn.invars):
            known[eqn.outvars[0]] = whole[len(whole) // 2]  # of a clamp the one in the middle


def _branch(eqn: Any, known: dict[Any, int], platform: str) -> int | None:
    """Return which branch runs, if that is known."""
    platforms = eqn.params.get("branches_platforms")
    if platforms is None:
        return _value(eqn.invars[0], known)
    return next(i for i, names in enumerate(platforms) if names is None or platform in names)


def shard_shape(array: Any) -> tuple[int, ...]:
    """Return the shape of the share of one device, if types say how arrays are sharded.

    Examples:
      >>> import jax
      >>> shard_shape(jax.ShapeDtypeStruct((8, 3), "float32"))
      (8, 3)
    """
    sharding = getattr(array, "sharding", None)
    if sharding is None:
        return tuple(array.shape)
    shards = [math.prod(sharding.mesh.shape[a] for a in names) for names in _names(array)]
    return tuple(n // k for n, k in zip(array.shape, shards, strict=True))


def _names(array: Any) -> list[tuple[str, ...]]:
    """Return the mesh axes over which each axis of an array is divided."""
    spec = [(a,) if isinstance(a, str) else tuple(a or ()) for a in array.sharding.spec]
    return [*spec, *[()] * (len(array.shape) - len(spec))]


def _missing(here: Any, there: Any, axes: dict[str, int]) -> int:
    """Count the numbers of its part of `there` that a device does not have in its part of `here`, the same array."""
    both = [{*h, *t} for h, t in zip(_names(here), _names(there), strict=True)]
    has = math.prod(n // math.prod(axes[a] for a in names) for n, names in zip(there.shape, both, strict=True))
    return math.prod(shard_shape(there)) - has


def _cost(eqn: Any, axes: dict[str, int]) -> tuple[str, int]:
    """Return the kind and amount of one equation."""
    name = eqn.primitive.name
    ins = [shard_shape(v.aval) for v in eqn.invars if hasattr(v.aval, "shape")]
    outs = [v.aval for v in eqn.outvars if hasattr(v.aval, "shape")]
    if name in _MOVES or not outs:
        return "", 0
    if name in _COLLECTIVES:
        kind, portion = _COLLECTIVES[name]
        over = eqn.params.get("axes", eqn.params.get("axis_name", ()))
        n = math.prod(axes[a] for a in ((over,) if isinstance(over, str) else over))
        size = sum(math.prod(shard_shape(a)) * a.dtype.itemsize for a in outs)
        return kind, math.ceil(size * portion(n))
    if name == "reshard":
        kind = "all-gather" if math.prod(shard_shape(outs[0])) > math.prod(ins[0]) else "all-to-all"
        return kind, _missing(eqn.invars[0].aval, outs[0], axes) * outs[0].dtype.itemsize
    if name == "dot_general":
        contracted = eqn.params["dimension_numbers"][0][0]
        return "products", 2 * math.prod(shard_shape(outs[0])) * math.prod(ins[0][i] for i in contracted)
    if name in _DECOMPOSITIONS:
        *batch, m, n = ins[0]
        k = math.prod(ins[-1]) // max(math.prod(batch) * n, 1)
        return "decompositions", math.ceil(math.prod(batch) * _DECOMPOSITIONS[name](m, n, k))
    sizes = ins if name.startswith(("reduce", "arg", "cum")) else [shard_shape(a) for a in outs]
    return "elementwise", math.prod(sizes[0])

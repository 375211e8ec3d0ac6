"""Tell what a run will cost before anything is allocated: trace a transformation and count its program."""

import math
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from precond.arguments import check_whole, described
from precond.blocks import collect_reports
from precond.planning.account import account
from precond.planning.count import Count, Key, count_program, shard_shape
from precond.planning.report import Plan, Stack, Work
from precond.planning.views_of import views_of

__all__ = ["plan"]

_STACK = re.compile(r"(\d+) of (\d+) ([\dx()]+)")
_REFRESH = re.compile(r"(?:refresh|first)\[(\d+) of (\d+), every (\d+)\]")
_KNOWN = ("turns", "first")  # loops of the refresh: of a turn in a step; and of work that not every step has
_ROLES = ("statistics", "roots", "momentum", "rest")
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


@described()
def plan(
    tx: optax.GradientTransformation,
    params: Any,
    *,
    mesh: Mapping[str, int] | None = None,
    extra: Mapping[str, Any] | None = None,
    platform: str = "cuda",
) -> Plan:
    """Say what an optimizer will keep, compute and send in a step, by tracing it alone.

    It is the program of `tx` itself that is counted, on shapes: any transformation can be planned, nothing is compiled
    or allocated, and no device is needed, however many the mesh has. The gradients' own reduction is not part of it,
    nor is what a model does for K-FAC's factors.

    Args:
      tx: an optimizer, from this library or around it.
      params: a tree of anything with shape and dtype. They are replicated; those that have a `NamedSharding` lie on the
        mesh as its specification says.
      mesh: sizes of mesh axes by name, with those that `axis=` of the optimizer names; None is one device. The `shape`
        of a `jax.sharding.Mesh` is one.
      extra: further arguments of `update` by name, as shapes.
      platform: "cpu", "cuda", "rocm" or "tpu": where an algorithm depends on it, which is counted.

    Returns:
      A `Plan`; see its attributes, `Plan.table`, `Plan.json` and `Plan.seconds`.

    Raises:
      ValueError, TypeError: for a mesh that the optimizer cannot divide its stacks over, parameters without shapes, or
        an unknown platform.

    Examples:
      >>> import precond
      >>> params = {"kernel": jax.ShapeDtypeStruct((2048, 4096), "float32")}
      >>> tx = precond.shampoo(1e-3, block_size=1024, axis="data")
      >>> found = precond.plan(tx, params, mesh={"data": 8})
      >>> found.stacks
      (Stack(shape='1024x1024', blocks=8, padding=0),)
      >>> # These are two roots of 4 MiB, and seven blocks that others have.
      >>> (
      ...     found.bytes["roots"] // 1024**2,
      ...     found.wire,
      ... )
      (8, {'all-gather': 29360128, 'all-reduce': 7})
      >>> found.work["application"].products == 2 * 2 * 1024**3
      True
    """
    sizes = {} if mesh is None else dict(mesh)
    for name, size in sizes.items():
        check_whole(f"mesh['{name}']", size, least=1)
    if platform not in _PLATFORMS:
        raise ValueError(f"platform={platform!r}: must be one of {', '.join(_PLATFORMS)}.")
    _check_shapes(params)
    tx = optax.with_extra_args_support(tx)
    devices = AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Explicit,) * len(sizes))
    params, given = jax.tree.map(lambda x: _placed(x, devices), (params, dict(extra or {})))
    with jax.sharding.use_abstract_mesh(devices):
        views = views_of(tx, params)
        with collect_reports():  # `views_of` has warned of what `init` would warn of
            state = jax.eval_shape(tx.init, params)
        program = jax.make_jaxpr(lambda g, s, p, e: tx.update(g, s, p, **e))(params, state, params, given)
    found, kept = count_program(program, sizes, platform), account(state)
    gradients = sum(_bytes(x) for x in jax.tree.leaves(params))
    return Plan(
        devices=math.prod(sizes.values()),
        parameters=sum(math.prod(x.shape) for x in jax.tree.leaves(params)),
        stacks=_stacks(found),
        bytes={role: kept[role] for role in _ROLES},
        moved=2 * sum(kept.values()) + 2 * gradients,
        work=_work(found),
        periods=tuple(sorted({period for _, _, period in _refreshes(found).values()})),
        staggered=any(due < rows for due, rows, _ in _refreshes(found).values()),
        wire={kind: _sum(found, kind) for kind in sorted({k.kind for k in found}) if "-" in kind},
        loops=sum(n for key, n in found.items() if key.kind == "loops" and not key.part.startswith(_KNOWN)),
        views=views,
    )


def _check_shapes(params: Any) -> None:
    bad = [x for x in jax.tree.leaves(params) if not hasattr(x, "shape") or not hasattr(x, "dtype")]
    if bad:
        raise TypeError(
            f"params= has a leaf {bad[0]!r} without shape and dtype: make it a jax.ShapeDtypeStruct(shape, dtype)."
        )


def _placed(x: Any, devices: AbstractMesh) -> jax.ShapeDtypeStruct:
    """Give an array a type that says how it is sharded."""
    spec = getattr(getattr(x, "sharding", None), "spec", PartitionSpec())
    sharding = NamedSharding(devices, spec) if devices.axis_names else None
    return jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x), sharding=sharding)


def _bytes(x: Any) -> int:
    return math.prod(shard_shape(x)) * x.dtype.itemsize


def _sum(found: Count, kind: str) -> int:
    """Add up all parts but the first refresh, which belongs to no usual step."""
    return sum(n for key, n in found.items() if key.kind == kind and not key.part.startswith("first"))


def _stacks(found: Count) -> tuple[Stack, ...]:
    parts = sorted({key.part for key in found if key.part.startswith("stacks")})
    counted = [m for part in parts for m in _STACK.findall(part)]
    return tuple(Stack(shape, int(blocks), int(rows) - int(blocks)) for blocks, rows, shape in counted)


def _refreshes(found: Count, name: str = "refresh") -> dict[str, tuple[int, ...]]:
    """Return for each part of the refresh the roots that are due in a step, the number of all, and the period."""
    matches = {key.part: _REFRESH.fullmatch(key.part) for key in found if key.part.startswith(name)}
    return {part: tuple(int(n) for n in m.groups()) for part, m in matches.items() if m}


def _work(found: Count) -> dict[str, Work]:
    refreshes, first = _refreshes(found), _refreshes(found, "first")
    known = refreshes | first

    def of(parts: Iterable[str], times: Any = lambda due, rows, period: 1) -> Work:
        sums = {kind: Fraction(0) for kind in Work._fields}
        for part in parts:
            for kind in sums:
                sums[kind] += found[Key(part, kind)] * times(*known.get(part, (1, 1, 1)))
        return Work(**{kind: math.ceil(x) for kind, x in sums.items()})

    parts = {key.part for key in found}
    staggered = {part: turns for part, turns in refreshes.items() if turns[0] < turns[1]}
    return {
        "statistics": of(["statistics"]),
        "application": of(["application"]),
        "rest": of(parts - {"statistics", "application", *first, *refreshes}),
        # The work of a refresh is in proportion to the number of roots.
        "at once": of(refreshes, lambda due, rows, period: Fraction(rows, due)),
        "mean": of(refreshes, lambda due, rows, period: Fraction(rows, due * period)),
        "in turns": of(refreshes, lambda due, rows, period: Fraction(-(-rows // period), due)),
        # What is done the first time alone; and if roots have turns, all of these.
        "first": of(first or staggered, lambda due, rows, period: min(rows, period) if due < rows else 1),
    }

"""The tap: an identity whose backward pass returns the sums that K-FAC's factors are made of."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from precond.layers.kinds import Kind
from precond.layers.sharing import Sharing, expand

__all__ = ["Tap", "tally", "tap", "vary", "varying"]


class Tap(NamedTuple):
    """What a tap does to the signals; static.

    Attributes:
      kind: of the layer.
      sharing: `expand`, `reduce` or a `doubly_factored`.
      batch: how many leading axes number the examples: 1, or 0 for a model of a single example that is mapped.
    """

    kind: Kind
    sharing: Sharing = expand
    batch: int = 1


def _one(g: jax.Array) -> jax.Array:
    """A count that came from shapes alone would not be summed under vmap: this one depends on the data."""
    return jnp.where(jnp.ravel(g)[0] == 0, 1, 1)


def _sums(spec: Tap, x: jax.Array, g: jax.Array, mask: Any, probe: Any, bases: Any) -> dict[str, jax.Array]:
    """Return the entries that the probe has, each in its shape."""
    kind, dtype = spec.kind, probe["rows"].dtype
    signals = kind.signals(x, g.astype(dtype), spec.batch)
    rows = kind.rows(signals, spec.sharing, mask)
    out = {**kind.sums(rows), "rows": jnp.sum(rows.weights) * _one(g).astype(dtype)}
    if "moments" in probe:
        out["moments"] = kind.moments(rows, bases)
    if "gradient" in probe:
        out["gradient"] = kind.gradient(signals)
    return {name: out[name].reshape(like.shape).astype(dtype) for name, like in probe.items()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tap(spec: Tap, y: jax.Array, x: jax.Array, mask: Any, probe: Any, bases: Any) -> jax.Array:
    del spec, x, mask, probe, bases
    return y


def _forward(spec: Tap, y: jax.Array, x: jax.Array, mask: Any, probe: Any, bases: Any) -> Any:
    del spec
    return y, (x, mask, probe, bases)


def _nothing(x: Any) -> Any:
    """The cotangent of what the tap only looks at."""
    return jax.tree.map(lambda v: jnp.zeros_like(v) if jnp.issubdtype(v.dtype, jnp.inexact) else None, x)


def _partitioned(f: Callable[..., Any], *signals: jax.Array) -> Callable[..., Any]:
    """Where a mesh has explicit axes, which sums over sharded examples would have to name, leave them to XLA."""
    for mesh in (jax.typeof(x).sharding.mesh for x in signals):
        if not mesh.empty and AxisType.Explicit in mesh.axis_types:
            return jax.sharding.auto_axes(f, out_sharding=NamedSharding(mesh, PartitionSpec()))
    return f


def _backward(spec: Tap, kept: Any, g: jax.Array) -> Any:
    x, mask, probe, bases = kept
    sums = _partitioned(functools.partial(_sums, spec), g, x)(x, g, mask, probe, bases)
    return g, _nothing(x), _nothing(mask), sums, _nothing(bases)


_tap.defvjp(_forward, _backward)


def varying(x: jax.Array) -> frozenset[str]:
    """The axes of a `shard_map` over which an array differs, where that is checked; none elsewhere.

    Examples:
      >>> varying(jnp.ones(2))
      frozenset()
    """
    aval = jax.typeof(x)
    return frozenset(getattr(getattr(aval, "mat", aval), "varying", None) or getattr(aval, "vma", ()))


def vary(tree: Any, axes: frozenset[str]) -> Any:
    """The same arrays, said to differ over these axes.

    Examples:
      >>> vary(jnp.ones(2), frozenset()).tolist()
      [1.0, 1.0]
    """

    def cast(x: jax.Array) -> jax.Array:
        missing = tuple(axes - varying(x))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, tree)


def tap(
    spec: Tap,
    y: jax.Array,
    x: jax.Array,
    probe: Mapping[str, jax.Array],
    mask: jax.Array | None = None,
    bases: Mapping[str, jax.Array] | None = None,
) -> jax.Array:
    """Give `y` itself; in the backward pass, the cotangent of `probe` is what K-FAC needs of this layer.

    The cotangents are sums over the examples: those of several calls, of the steps of a scan, of what is mapped and of
    the devices that share a batch add up by themselves. A probe is a mapping of zeros: `inputs` `[i, i]` (`[i]` for an
    embedding, `[r, i, i]` for groups), `outputs` `[o, o]`, `rows` `[]`, for a map that is doubly factored `positions`
    `[p, p]`, and, to check the layer, `gradient` `[r, i, o]` for its gradient as the signals have it, or `moments`
    `[r, i, o]` for second moments in a basis: `precond.layers.Kind.moments`.

    Args:
      spec: what kind of layer this is.
      y: the output of a layer.
      x: its input; of a norm, the normalised one.
      probe: zeros, of float32 or wider.
      mask: of the positions of `y` that count, for the inputs (padding); None for all.
      bases: for `moments`; None for none.

    Returns:
      `y`.

    Examples:
      >>> from precond.layers.kinds import dense
      >>> probe = {"inputs": jnp.zeros((2, 2)), "outputs": jnp.zeros((1, 1)), "rows": jnp.zeros(())}
      >>> x, w = jnp.asarray([[1.0, 2.0], [3.0, 4.0]]), jnp.ones((2, 1))
      >>> sums = jax.grad(lambda p: jnp.sum(tap(Tap(dense(bias=False)), x @ w, x, p)))(probe)
      >>> sums["inputs"].tolist(), sums["outputs"].tolist(), sums["rows"].item()
      ([[10.0, 14.0], [14.0, 20.0]], [[2.0]], 2.0)
    """
    # The cast's transpose is the sum over devices.
    axes = varying(y) | varying(x)
    return _tap(spec, y, x, mask, vary(dict(probe), axes), vary(dict(bases or {}), axes))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tally(batch: int, y: jax.Array, counters: Any) -> jax.Array:
    del batch, counters
    return y


def _tally_forward(batch: int, y: jax.Array, counters: Any) -> Any:
    del batch
    return y, counters


def _tally_backward(batch: int, counters: Any, g: jax.Array) -> Any:
    count = math.prod(g.shape[:batch]) * _partitioned(_one, g)(g)
    return g, jax.tree.map(lambda c: jnp.broadcast_to(count, c.shape).astype(c.dtype), counters)


_tally.defvjp(_tally_forward, _tally_backward)


def tally(outputs: Any, counters: Any, batch: int = 1) -> Any:
    """Give `outputs` themselves; in the backward pass, the cotangent of each counter is the number of examples.

    As the sums of a tap, numbers of what is mapped and of the devices that share a batch add up by themselves.

    Args:
      outputs: of a model, a tree; the examples are counted in its first floating array.
      counters: a tree of zeros, `[..]`; each entry counts.
      batch: how many leading axes number the examples.

    Examples:
      >>> jax.grad(lambda c: jnp.mean(tally(jnp.ones((5, 2)), c)))(jnp.zeros(2)).tolist()
      [5.0, 5.0]
    """
    leaves, treedef = jax.tree.flatten(outputs)
    first = next((i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.inexact)), None)
    if first is not None and jax.tree.leaves(counters):
        leaves[first] = _tally(batch, leaves[first], vary(counters, varying(leaves[first])))
    return treedef.unflatten(leaves)

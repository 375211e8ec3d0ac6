"""Tap a layer: an identity whose backward pass returns the sums that K-FAC's factors are made of."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from precond.layers.kinds import Kind
from precond.layers.sharing import Sharing, expand
from precond.layers.watch_taps import note_backward, note_tap, refuse_derivative, refuse_forward_mode
from precond.trees import Tree, vary, varying

__all__ = ["Tap", "partitioned", "tap", "traced_one"]

Arrays = Mapping[str, jax.Array]
Kept = tuple[jax.Array, jax.Array | None, Arrays, Arrays]


class Tap(NamedTuple):
    """Say how a tap makes sums of a layer's signals; static.

    Attributes:
      kind: the kind of the layer.
      sharing: `expand`, `reduce` or a `doubly_factored`.
      batch: how many leading axes number the examples: 1, or 0 for a model of one example that is mapped.
    """

    kind: Kind
    sharing: Sharing = expand
    batch: int = 1


def traced_one(g: jax.Array) -> jax.Array:
    """Return a 1 that depends on an array: under `jax.vmap` it is summed, as a count from shapes alone would not be.

    Examples:
      >>> traced_one(jnp.zeros(3)).item()
      1
    """
    return jnp.where((jnp.ravel(g)[0] if g.size else jnp.sum(g)) == 0, 1, 1)


def _sums(spec: Tap, x: jax.Array, g: jax.Array, mask: jax.Array | None, probe: Arrays, bases: Arrays) -> Arrays:
    """Return the entries that the probe has, each in its shape."""
    kind, dtype = spec.kind, probe["rows"].dtype
    signals = kind.signals(x, g.astype(dtype), spec.batch)
    rows = kind.rows(signals, spec.sharing, mask)
    out = {**kind.sums(rows), "rows": jnp.sum(rows.weights) * traced_one(g).astype(dtype)}
    if "moments" in probe:
        out["moments"] = kind.moments(rows, bases)
    if "gradient" in probe:
        out["gradient"] = kind.gradient(signals)
    return {name: out[name].reshape(like.shape).astype(dtype) for name, like in probe.items()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tap(spec: Tap, y: jax.Array, x: jax.Array, mask: jax.Array | None, probe: Arrays, bases: Arrays) -> jax.Array:
    del spec, x, mask, probe, bases
    return y


def _forward(
    spec: Tap, y: jax.Array, x: jax.Array, mask: jax.Array | None, probe: Arrays, bases: Arrays
) -> tuple[jax.Array, Kept]:
    del spec
    return y, (x, mask, probe, bases)


def _no_cotangent(x: Tree | None) -> Tree | None:
    """Return zeros for floating arrays and None for others: the tap only looks at them."""
    return jax.tree.map(lambda v: jnp.zeros_like(v) if jnp.issubdtype(v.dtype, jnp.inexact) else None, x)


def partitioned(f: Callable[..., Any], *signals: jax.Array) -> Callable[..., Any]:
    """Return a function that leaves its sharding to XLA where a mesh has explicit axes.

    A sum over sharded examples would otherwise have to name these axes.

    Args:
      f: a function of the signals, and of more arrays.
      *signals: arrays that show which mesh they are on.

    Examples:
      >>> partitioned(jnp.sum, jnp.ones(3)) is jnp.sum  # no mesh
      True
    """
    for mesh in (jax.typeof(x).sharding.mesh for x in signals):
        if not mesh.empty and AxisType.Explicit in mesh.axis_types:
            return jax.sharding.auto_axes(f, out_sharding=NamedSharding(mesh, PartitionSpec()))
    return f


def _backward(spec: Tap, kept: Kept, g: jax.Array) -> tuple[Tree | None, ...]:
    note_backward()
    x, mask, probe, bases = kept
    sums = partitioned(functools.partial(_sums, spec), g, x)(x, g, mask, probe, bases)
    return _last(g, probe), _no_cotangent(x), _no_cotangent(mask), sums, _no_cotangent(bases)


_tap.defvjp(_forward, _backward)


@jax.custom_jvp
def _last(g: jax.Array, probe: Arrays) -> jax.Array:
    """Return a cotangent whose derivative by the probe is refused: the factors would lack what comes through it."""
    del probe
    return g


@functools.partial(_last.defjvp, symbolic_zeros=True)
def _of_last(primals: tuple[jax.Array, Arrays], tangents: tuple[Any, Tree]) -> tuple[jax.Array, jax.Array]:
    (g, probe), (dg, dprobe) = primals, tangents
    still = jax.tree.leaves(dprobe, is_leaf=_is_zero)
    if not all(map(_is_zero, still)):
        refuse_derivative()
    dg = jnp.zeros(dg.shape, dg.dtype) if _is_zero(dg) else dg
    return _last(g, probe), _last(dg, probe)  # another derivative may be taken around this one


def _is_zero(x: object) -> bool:
    return isinstance(x, jax.custom_derivatives.SymbolicZero)


def tap(
    spec: Tap,
    y: jax.Array,
    x: jax.Array,
    probe: Arrays,
    mask: jax.Array | None = None,
    bases: Arrays | None = None,
) -> jax.Array:
    """Return `y` itself; in the backward pass, the cotangent of `probe` holds the sums of this layer's factors.

    The sums run over the examples. Sums of several calls add up by themselves. The same holds for those of a scan, of
    `jax.vmap`, and of the devices that share a batch. A probe is a mapping of zeros:

    - `inputs` `[i, i]` (`[i]` for an embedding, `[r, i, i]` for groups), `outputs` `[o, o]` and `rows` `[]`;
    - `positions` `[p, p]` for a layer that is doubly factored;
    - `gradient` `[r, i, o]` to check the layer: its gradient as the signals have it;
    - `moments` `[r, i, o]` for second moments in a basis (`precond.layers.Kind.moments`).

    Args:
      spec: the layer's kind and sharing rule.
      y: the output of a layer.
      x: the input of the layer; for a norm, the normalised one.
      probe: zeros, of float32 or wider.
      mask: the mask of the positions of `y` that count for the inputs (padding does not); None counts all.
      bases: the bases for `moments`; None if there are no `moments`.

    Returns:
      `y`.

    Examples:
      >>> from precond.layers.kinds import dense
      >>> probe = {
      ...     "inputs": jnp.zeros((2, 2)),
      ...     "outputs": jnp.zeros((1, 1)),
      ...     "rows": jnp.zeros(()),
      ... }
      >>> x, w = jnp.asarray([[1.0, 2.0], [3.0, 4.0]]), jnp.ones((2, 1))
      >>> sums = jax.grad(lambda p: jnp.sum(tap(Tap(dense(bias=False)), x @ w, x, p)))(probe)
      >>> sums["inputs"].tolist(), sums["outputs"].tolist(), sums["rows"].item()
      ([[10.0, 14.0], [14.0, 20.0]], [[2.0]], 2.0)
    """
    note_tap(spec)
    if spec.batch >= max(y.ndim, 2):
        raise ValueError(
            f"batch={spec.batch}: the output of a layer has the shape {y.shape}, of which so many axes cannot number "
            f"the examples. Give capture() batch=1, or 0 for a model of one example that is mapped."
        )
    # The transpose of the cast adds up over devices.
    axes = varying(y) | varying(x)
    with refuse_forward_mode():
        return _tap(spec, y, x, mask, vary(dict(probe), axes), vary(dict(bases or {}), axes))

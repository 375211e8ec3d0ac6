"""Choose whether directions are gathered in every step, or roots when they are refreshed."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from precond.engine.host_state import describing
from precond.engine.scale_by_kronecker import KroneckerState
from precond.mesh import ByCost, Placement, Sharded
from precond.roots import RootState
from precond.trees import Tree

__all__ = ["choose_root_axes"]


def _bytes(tree: Tree) -> int:
    """Count the bytes of the arrays that have an entry for every block."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree) if x.shape)


def _application(engine: KroneckerState, stacks: Mapping[str, jax.ShapeDtypeStruct]) -> int:
    """Count the operations to multiply every block once by each matrix of its roots."""
    roots = jax.tree.leaves(engine.roots, is_leaf=lambda x: isinstance(x, RootState))
    pairs = zip(roots, jax.tree.leaves(stacks), strict=True)
    return sum(
        2 * x.shape[-1] * math.prod(stack.shape)
        for root, stack in pairs
        for x in jax.tree.leaves(root.derived)
        if len(x.shape) == 3
    )


def choose_root_axes(
    placement: Placement | None,
    sharding: Sharded,
    inner: optax.GradientTransformation,
    stacks: Mapping[str, jax.ShapeDtypeStruct],
    dtypes: Mapping[str, jnp.dtype],
) -> Placement | None:
    """Return the placement with the axes over which roots are gathered.

    See `precond.by_cost` for the cost.

    Args:
      placement: the placement of the stacks.
      sharding: the choice of the user. If `sharding.roots` is not a `precond.by_cost`, the placement stays as it is.
      inner: the transformation that runs on the stacks.
      stacks: the shapes and dtypes of the stacks.
      dtypes: the dtypes in which directions are sent.

    Raises:
      ValueError: for named axes if roots are refreshed on the host.
    """
    if placement is None or not sharding.roots:
        return placement
    with describing():
        state = jax.eval_shape(lambda s: inner.init(s), stacks)
    nodes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, KroneckerState))
    engines = [x for x in nodes if isinstance(x, KroneckerState)]
    on_host = any(x.host.schedule.on_host for x in engines)
    if on_host and not isinstance(sharding.roots, ByCost):
        raise ValueError(
            f"roots={sharding.roots} gathers roots over devices when these refresh them, but precond.on_host refreshes "
            f"them on the host: leave roots= out, or take precond.every."
        )
    if on_host or not isinstance(sharding.roots, ByCost):
        return placement
    kept = _bytes(state) - sum(_bytes(x.statistics) for x in engines)
    directions = sum(math.prod(x.shape) * dtypes[name].itemsize for name, x in stacks.items())
    roots = sum(
        _bytes([root.derived for root in jax.tree.leaves(x.roots, is_leaf=lambda r: isinstance(r, RootState))])
        / x.host.schedule.period
        for x in engines
    )
    work = sum(_application(x, stacks) for x in engines) / sharding.roots.flops_per_byte

    def counts(over: tuple[str, ...]) -> tuple[int, int]:
        each = placement.over(over).count
        return placement.count // each, each

    def cost(over: tuple[str, ...]) -> float:
        of_directions, of_roots = counts(over)
        return directions * (1 - 1 / of_directions) + (roots * (1 - 1 / of_roots) + work) / of_directions

    options = [placement.axes[i:] for i in range(len(placement.axes), -1, -1)]
    fitting = [o for o in options if kept / counts(o)[0] - kept / placement.count <= sharding.roots.memory]
    return placement._replace(root_axes=min(fitting, key=cost))

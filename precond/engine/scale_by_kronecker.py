"""Precondition stacks by statistics and a root. The engine knows no method, no mesh and no parameter."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from precond.arguments import check_direction, check_part, check_transformation, described
from precond.blocks import BlockInfo, check_stacks, info_of, keep_finite, path_name, report_meaning
from precond.control_flow import after
from precond.engine.check_parts import check_factors, check_like, check_root_state
from precond.engine.host_state import capture, host_state
from precond.engine.per_block import per_block
from precond.engine.refresh_roots import refresh_roots
from precond.engine.refresh_schedule import RefreshSchedule, as_schedule
from precond.linalg import Precision, computed_in, computing_in, row_major
from precond.roots import Root, RootState, powers_of
from precond.scopes import named
from precond.transformation import transformation

__all__ = ["KroneckerState", "scale_by_kronecker"]


class KroneckerState(NamedTuple):
    """Hold the state of `scale_by_kronecker`.

    Attributes:
      count: the number of updates in which some block was finite.
      statistics: the state of the statistics.
      roots: the tree of the stacks with a `RootState` in place of each.
      momentum: the state of the momentum.
      host: a `HostState` if roots are refreshed on the host, else an empty tuple.
    """

    count: jax.Array
    statistics: Any
    roots: Any
    momentum: Any
    host: Any


def _is_root(x: Any) -> bool:
    return isinstance(x, RootState)


def _refresh(
    root: Root, schedule: RefreshSchedule, step: jax.Array, factors: Any, roots: Any, blocks: BlockInfo
) -> Any:
    """Apply `refresh_roots` to trees of stacks."""
    states, treedef = jax.tree.flatten(roots, is_leaf=_is_root)
    tuples = treedef.flatten_up_to(factors)
    places = [(i, axis) for i, t in enumerate(tuples) for axis, f in enumerate(t) if f is not None]
    moving = root.transport is not None
    new, moments = refresh_roots(
        root,
        schedule,
        step,
        [tuples[i][axis] for i, axis in places],
        [states[i].derived[axis] for i, axis in places],
        [power for t in tuples for power in powers_of(root, t)],
        blocks,
        [state.moments for state in states] if moving else (),
        places,
    )
    derived = [list(state.derived) for state in states]
    for (i, axis), x in zip(places, new, strict=True):
        derived[i][axis] = x
    states = [s._replace(derived=tuple(d)) for s, d in zip(states, derived, strict=True)]
    if moving:
        states = [s._replace(moments=m) for s, m in zip(states, moments, strict=True)]
    return jax.tree.unflatten(treedef, states)


def _first(root: Root, stack: Any, factors: Any) -> RootState:
    check_factors(stack, factors)
    state = root.init(stack, factors)
    check_root_state(state, factors)
    for power in powers_of(root, factors):
        report_meaning(f"roots of the power {float(power):.4g} for blocks of {len(factors)} axes")
    return state


def _apply(root: Root, directions: Any, gradients: Any, roots: Any, finite: Any) -> tuple[Any, list[Any]]:
    """Return the preconditioned stacks, and the `RootState.moments` of each."""
    states, treedef = jax.tree.flatten(roots, is_leaf=_is_root)
    masks = [None] * len(states) if finite is None else treedef.flatten_up_to(finite)
    out, moments = [], []
    for d, g, state, mask in zip(*map(treedef.flatten_up_to, (directions, gradients)), states, masks, strict=True):
        both = root.apply(d, g, state)
        check_like("root.apply", both, (d, state))
        applied, new = both
        out.append(row_major(applied))
        moments.append(keep_finite(mask, new.moments, state.moments))
    return treedef.unflatten(out), moments


def _with_moments(roots: Any, moments: list[Any]) -> Any:
    states, treedef = jax.tree.flatten(roots, is_leaf=_is_root)
    return treedef.unflatten([state._replace(moments=x) for state, x in zip(states, moments, strict=True)])


@described(sign=1)
def scale_by_kronecker(
    statistics: optax.GradientTransformation,
    root: Root,
    *,
    momentum: optax.GradientTransformation | None = None,
    refresh: RefreshSchedule | int = 1,
    precision: Precision | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Precondition stacks of blocks: *statistics* x *root*.

    In each step the statistics turn the gradients into factors. The root computes its matrices from the factors that
    are due, and multiplies the momentum by them. Use it inside `precond.blocked`, or on any tree of arrays
    `[N, d1, .., dk]`.

    Args:
      statistics: a transformation from stacks to factors: `precond.outer_products`, `precond.kl`, or a chain of Optax's
        transformations around one. It sees the raw gradients (`precond.BlockInfo.gradients`), and gives factors
        `[N, d, d]`, dense or in half the memory (`precond.linalg.Packed`).
      root: `precond.inverse_root`, `precond.eigenbasis`, or another `precond.Root`.
      momentum: an Optax transformation of the stacks, the result of which is preconditioned (`optax.ema(0.9)`);
        None preconditions the gradient itself. Every block has its own (`precond.per_block`).
      refresh: the schedule of refreshes: `precond.every`, or the number of steps between two refreshes, or
        `precond.on_host`.
      precision: the precision in which matrices are multiplied: `precond.precision`; None is the highest of their
        dtype.

    Returns:
      A transformation of stacks. The state of a block whose gradient is not finite (`precond.BlockInfo.finite`) stays
      as it was. If no block is finite, the whole state stays as it was.

    Raises:
      TypeError: if `refresh` is neither a schedule nor an integer, and for parts of another kind.
      ValueError: if `refresh` is below 1.

    Examples:
      >>> import precond
      >>> tx = scale_by_kronecker(
      ...     precond.outer_products(1.0), precond.inverse_root(damping=precond.absolute(0.0))
      ... )
      >>> stacks = {"1x1": jnp.full((1, 1, 1), 4.0)}
      >>> updates, state = tx.update(stacks, tx.init(stacks))
      >>> updates["1x1"].item()  # 4 (4^2)^(-1/4) (4^2)^(-1/4)
      1.0
    """
    given, momentum = momentum, optax.identity() if momentum is None else momentum
    check_transformation("statistics", statistics)
    check_part("root", root, Root, "precond.inverse_root()")
    check_transformation("momentum", momentum)
    statistics, momentum = optax.with_extra_args_support(statistics), per_block(momentum)
    schedule = as_schedule(refresh)
    dots = Precision() if precision is None else precision

    def factors_of(stacks: Any, state: Any, roots: Any, params: Any, blocks: BlockInfo, extra: Any) -> Any:
        local = blocks.root_collectives.local
        found = jax.tree_util.tree_flatten_with_path(roots, is_leaf=_is_root)[0]
        states = {path_name(path): state for path, state in found}

        def whiten(name: str, axis: int, factor: jax.Array) -> jax.Array:
            if root.whiten is None:
                raise ValueError("This root whitens no axis, which precond.kl() needs: use it with inverse_root().")
            return root.whiten(local(states[name]), axis, factor) if states else factor

        given = extra | {"blocks": blocks.local(), "whiten": whiten}
        with computing_in(dots.statistics), named("statistics"):
            return statistics.update(local(stacks), state, local(params), **given)

    def refreshed(count: jax.Array, factors: Any, roots: Any, blocks: BlockInfo) -> Any:
        if schedule.on_host:
            return roots
        with computing_in(dots.roots):
            return _refresh(root, schedule, count, factors, roots, blocks)

    def init(params: optax.Params) -> KroneckerState:
        check_stacks(params)
        state = statistics.init(params)
        factors = jax.eval_shape(lambda p, s: factors_of(p, s, {}, None, BlockInfo(), {})[0], params, state)
        roots = jax.tree.map(functools.partial(_first, root), params, factors)
        host = host_state(root, schedule, params, factors)
        return KroneckerState(jnp.zeros([], jnp.int32), state, roots, momentum.init(params), host)

    def update(
        updates: optax.Updates,
        state: KroneckerState,
        params: optax.Params | None = None,
        *,
        blocks: BlockInfo | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, KroneckerState]:
        info = info_of(blocks)
        # The number of this step if it counts. A schedule must not depend on gradients, so that it stays one condition
        # for all members of a vmap.
        step, roots, gradients = jnp.asarray(optax.safe_increment(state.count)), state.roots, info.raw(updates)
        # Factors, from the gradients.
        factors, collected = factors_of(gradients, state.statistics, roots, params, info, extra)
        # Roots, from the factors that are due.
        if not schedule.delay:
            roots = refreshed(step, factors, roots, info)
        # The direction is the momentum of the gradients, multiplied by the roots.
        directions, velocity = momentum.update(updates, state.momentum, params, **extra, blocks=info)
        with named("application"):
            apply = functools.partial(_apply, root)
            out, moments = computed_in(dots.projections, apply, directions, gradients, roots, info.finite)
        moved = _with_moments(roots, moments)
        if schedule.warmup:
            warm = state.count >= schedule.warmup
            out = jax.tree.map(lambda x: jnp.where(warm, x, 0), out)
            moved, velocity = optax.tree.where(warm, (moved, velocity), (roots, state.momentum))
        if schedule.delay:
            moved = refreshed(after(step, out), factors, moved, info)
        host = capture(schedule, step, info.any_finite, factors, state.host) if schedule.on_host else ()
        return out, KroneckerState(info.advance(state.count), collected, moved, velocity, host)

    return check_direction(transformation(init, update), momentum=given)

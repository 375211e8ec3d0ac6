"""What an optimizer's state tells of its health, as numbers to log."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from precond.engine import BlockedState, KroneckerState
from precond.large_batches import AdascaleState
from precond.roots import Health
from precond.transforms import FiniteStepsState, OrthogonalizeState
from precond.trees import find_nodes

__all__ = ["metrics"]


def metrics(state: Any) -> dict[str, jax.Array]:
    r"""Finite scalars from the state of any optimizer that has parts of this library in it, inside `jax.jit` or out.

    | key | over all roots and bases, or blocks |
    |---|---|
    | `roots/residual` | the largest residual of the last attempts (`precond.linalg.root_residual`) |
    | `roots/condition` | the largest condition number of the damped factors whose roots are in use |
    | `roots/damping` | the largest ridge in use, relative to the largest eigenvalue of its factor |
    | `roots/escalated` | how many will be tried with a damping that is raised |
    | `roots/refused` | attempts refused so far |
    | `roots/stale` | how many are older than their last turn, which was refused |
    | `blocks/skipped` | blocks skipped so far, because their gradient was not finite |
    | `host/staleness` | updates since the statistics were taken that the roots in use come from (`precond.on_host`) |
    | `host/failed` | refreshes on the host that failed or never took place, after which the last root stayed |
    | `orthogonal/error` | how far singular values are from 1: the largest root mean square of $s^2 - 1$ in a block |
    | `steps/skipped` | steps that `precond.transforms.finite_steps` skipped so far; of several, the most |
    | `adascale/step` | scale-invariant steps done, $\tau$ |
    | `adascale/gain` | r of the last step |
    | `adascale/efficiency` | r / S: how much of a base batch's progress each base batch made |
    | `adascale/noise_scale` | $\sigma^2 / \mu^2$ in base batches: the critical batch size |
    | `adascale/norm_test` | $(\sigma^2 / S) / (\mu^2 + \sigma^2 / S)$, noise in the squared norm of the gradient |

    At a scale S of the noise scale, training takes twice the fewest steps and twice the fewest examples (McCandlish et
    al., An Empirical Model of Large-Batch Training, 2018, section 2): much more than it is wasted, much less is slow.
    The norm test of AdAdaGrad (Lau, Liu and Kolar, 2024) wants `norm_test` at most $\eta^2$ for an $\eta$ below 1, and
    where it is more, the scale `S * norm_test / eta**2`. Both are of the averages that the gain is computed from.

    Args:
      state: a state, or any tree with states in it; keys that nothing in it has a value for are left out.

    Returns:
      A flat dictionary of scalars.

    Examples:
      >>> import precond
      >>> tx, params = precond.shampoo(1e-3), {"kernel": jnp.ones((4, 3))}
      >>> {key: value.item() for key, value in metrics(tx.init(params)).items()}["roots/condition"]
      1.0
    """
    found = _states(state)
    records = [x for x in found if isinstance(x, Health)]
    blocks = [x for x in found if isinstance(x, BlockedState)]
    isometries = [x for x in found if isinstance(x, OrthogonalizeState)]
    whole = [x for x in found if isinstance(x, FiniteStepsState)]
    scaled = [x for x in found if isinstance(x, AdascaleState)]
    out: dict[str, jax.Array] = {}
    if records:
        out |= _of_roots(records)
    if blocks:
        out["blocks/skipped"] = functools.reduce(jnp.add, [jnp.sum(b.blocks_skipped) for b in blocks])
    errors = [jnp.max(x) for state in isometries for x in jax.tree.leaves(state.error)]
    if errors:
        out["orthogonal/error"] = functools.reduce(jnp.maximum, errors)
    if whole:
        out["steps/skipped"] = functools.reduce(jnp.maximum, [x.skipped for x in whole])
    on_host = [x for x in find_nodes(state, KroneckerState) if x.host != ()]
    if on_host:
        out |= _of_host(on_host)
    if scaled:
        each = [_of_adascale(x) for x in scaled]
        out |= {key: functools.reduce(jnp.maximum, [x[key] for x in each]) for key in each[0]}
    return out


def _states(tree: Any) -> list[Any]:
    """Return all states that report something; of blocks within blocks, the outermost alone."""
    kinds = (Health, BlockedState, FiniteStepsState, AdascaleState, OrthogonalizeState)
    found = [x for x in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, kinds)) if isinstance(x, kinds)]
    for outer in list(found):
        if isinstance(outer, (BlockedState, FiniteStepsState)):
            inside = _states(tuple(outer))
            found += [x for x in inside if not (isinstance(outer, BlockedState) and isinstance(x, BlockedState))]
    return found


def _of_adascale(state: AdascaleState) -> dict[str, jax.Array]:
    # Averages of samples that are not clipped may be negative.
    variance, square = (jnp.maximum(jnp.sum(x), 0) for x in (state.variance, state.square))
    noise = variance / state.scale
    return {
        "adascale/step": state.step + state.fraction,
        "adascale/gain": state.gain,
        "adascale/efficiency": state.gain / state.scale,
        "adascale/noise_scale": jnp.nan_to_num(variance / square),
        "adascale/norm_test": jnp.nan_to_num(noise / (square + noise)),
    }


def _of_host(engines: Sequence[KroneckerState]) -> dict[str, jax.Array]:
    failed = [jnp.sum(x) for e in engines for x in jax.tree.leaves(e.host.failed)]
    return {
        "host/staleness": functools.reduce(jnp.maximum, [e.count - e.host.in_use_from for e in engines]),
        "host/failed": functools.reduce(jnp.add, failed),
    }


def _of_roots(records: Sequence[Health]) -> dict[str, jax.Array]:
    def largest(name: str) -> jax.Array:
        return functools.reduce(jnp.maximum, [jnp.max(getattr(x, name)) for x in records])

    def total(arrays: Sequence[jax.Array]) -> jax.Array:
        return functools.reduce(jnp.add, [jnp.sum(x) for x in arrays])

    return {
        "roots/residual": largest("residual"),
        "roots/condition": largest("condition"),
        "roots/damping": largest("damping"),
        "roots/escalated": total([x.escalated > 0 for x in records]),
        "roots/refused": total([x.refused for x in records]),
        "roots/stale": total([x.stale > 0 for x in records]),
    }

"""Read from an optimizer's state how healthy it is, as numbers to log."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from precond.arguments import check_arrays, check_state, is_state
from precond.blocks import KnownParameters, StackedState, hashed, path_name, without_probes
from precond.boxes import unboxed
from precond.engine import BlockedState, KroneckerState
from precond.large_batches import AdascaleState
from precond.roots import Health
from precond.statistics import ActivationsState
from precond.transforms import FiniteStepsState, OrthogonalizeState
from precond.trees import Tree, find_nodes

__all__ = ["metrics"]


def metrics(state: Any, params: Tree | None = None) -> dict[str, jax.Array]:
    r"""Return numbers to log from the state of any optimizer that has parts of this library in it; all are finite.

    | key | over all roots and bases, or blocks |
    |---|---|
    | `roots/residual` | the largest residual of the last attempts (`precond.linalg.root_residual`) |
    | `roots/condition` | the largest condition number of the damped factors whose roots are in use |
    | `roots/damping` | the largest ridge in use, relative to the largest eigenvalue of its factor |
    | `roots/escalated` | how many will be tried with a damping that is raised |
    | `roots/refused` | attempts refused so far |
    | `roots/stale` | how many are older than their last turn, which was refused |
    | `roots/refused_in_a_row` | attempts refused since a root was accepted; of all roots, the most |
    | `blocks/skipped` | blocks skipped so far, because their gradient was not finite |
    | `blocks/foreign` | updates so far that were given the state of other parameters, and moved to infinity |
    | `blocks/share` | the part of the stacks' bytes that one of several devices keeps; not within `jax.jit` |
    | `kfac/unseen` | updates since all factors of a layer had numbers other than zero; of the layers, the most |
    | `host/staleness` | updates since the statistics were taken that the roots in use come from (`precond.on_host`) |
    | `host/failed` | refreshes on the host that failed or never took place, after which the last root stayed |
    | `host/unserved` | how often in a row nobody took the factors for the host (with a warning outside of `jax.jit`) |
    | `orthogonal/error` | how far singular values are from 1: the largest root mean square of $s^2 - 1$ in a block |
    | `steps/skipped` | steps that `precond.transforms.finite_steps` skipped so far; of several, the most |
    | `adascale/step` | scale-invariant steps done, $\tau$ |
    | `adascale/gain` | r of the last step |
    | `adascale/efficiency` | r / S: how much of a base batch's progress each base batch made |
    | `adascale/noise_scale` | $\sigma^2 / \mu^2$ in base batches: the critical batch size |
    | `adascale/norm_test` | $(\sigma^2 / S) / (\mu^2 + \sigma^2 / S)$, noise in the squared norm of the gradient |

    Of a state that is mapped (`jax.vmap(tx.init)`) or replicated (`jax.pmap`), each number is the largest among its
    models: what the worst of them has.

    At a scale S of the noise scale, training takes twice the fewest steps and twice the fewest examples (McCandlish et
    al., An Empirical Model of Large-Batch Training, 2018, section 2): much more than it is wasted, much less is slow.
    The norm test of AdAdaGrad (Lau, Liu and Kolar, 2024) wants `norm_test` at most $\eta^2$ for an $\eta$ below 1, and
    where it is more, the scale `S * norm_test / eta**2`. Both are of the averages that the gain is computed from.

    With the parameters, the numbers of roots are given by parameter and axis, too, where the largest among its blocks
    counts: `roots/residual/dense/kernel/0` is of axis 0 of the blocks of `dense/kernel`. These are `residual`,
    `condition`, `damping`, and `refused_in_a_row`, the number of last turns that did not renew the root.

    Args:
      state: a state, or any tree with states in it; keys that nothing in it has a value for are left out.
      params: the parameters of the optimizer, for numbers by parameter. This works outside of `jax.jit` alone, and for
        one model.

    Returns:
      A flat dictionary of scalars.

    Raises:
      TypeError: for an optimizer, for parameters, and for anything else that has no state in it.
      ValueError: with `params`, inside of `jax.jit`, and for the state of several models.

    Examples:
      >>> import precond
      >>> tx, params = precond.shampoo(1e-3), {"kernel": jnp.ones((4, 3))}
      >>> {key: value.item() for key, value in metrics(tx.init(params)).items()}[
      ...     "roots/condition"
      ... ]
      1.0
      >>> metrics(tx.init(params), params)["roots/condition/kernel/1"].item()
      1.0
    """
    check_state("metrics()", state)
    if is_state(params):
        raise TypeError("params= is the state of an optimizer. The order is metrics(state, params).")
    if params is not None:
        check_arrays("params", params)
    state = unboxed(state)
    found: list[Any] = [*_states(state), *(x for x in find_nodes(state, KroneckerState) if x.host != ())]
    found += [*find_nodes(state, ActivationsState), *find_nodes(state, KnownParameters)]
    numbers, mapped = _numbers, _mapped_axes(found)
    for _ in range(mapped):
        numbers = jax.vmap(numbers)
    out = numbers([_essence(x) for x in found])
    out = {key: jnp.max(x) for key, x in out.items()} if mapped else out
    out |= {} if params is None else _by_parameter(state, params)
    out |= {} if mapped else _shares(state)
    unserved = out.get("host/unserved", 0)
    if not isinstance(unserved, Tracer) and unserved > 0:
        warnings.warn(
            f"Factors were left for the host, and nobody took them, {int(unserved)} times in a row: roots stay as they "
            f"are, at first the identity. Make refresh = precond.host_refresh(tx, params), and call state = "
            f"refresh(state) before every update.",
            stacklevel=2,
        )
    return out


def _shares(state: object) -> dict[str, jax.Array]:
    """Return the largest share that one device has of the stacks in a state, if these are on several."""
    shares = []
    for stacks in find_nodes(state, StackedState):
        arrays = [x for x in jax.tree.leaves(stacks.stacks) if isinstance(x, jax.Array) and not isinstance(x, Tracer)]
        if any(len(x.sharding.device_set) > 1 for x in arrays):
            kept = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in arrays)
            shares.append(kept / sum(x.nbytes for x in arrays))
    return {"blocks/share": jnp.asarray(max(shares))} if shares else {}


def _mapped_axes(found: Sequence[Any]) -> int:
    """Return the number of leading axes that all states have more than those of one model have: those of `jax.vmap`."""
    scalars = [(_scalar(x), 2 if isinstance(x, Health) else 0) for x in found]
    shapes = [jnp.shape(x)[: jnp.ndim(x) - more] for x, more in scalars if x is not None]
    ranks = [len(shape) for shape in shapes]
    least = min(ranks, default=0)
    return least if len({shape[:least] for shape in shapes}) == 1 else 0


def _scalar(state: Any) -> Any:
    """Return an array whose axes are known: a scalar where one model has one state, or the numbers of `Health`."""
    if isinstance(state, Health):
        return state.numbers
    if isinstance(state, OrthogonalizeState):
        return next((x[..., 0] for x in jax.tree.leaves(state.error)), None)
    if isinstance(state, BlockedState):
        return state.steps_skipped
    if isinstance(state, KnownParameters):
        return state.foreign
    return state.skipped if isinstance(state, FiniteStepsState) else state.count


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Seen:
    """Say which kind of state some arrays are from."""

    kind: str


def _essence(state: Any) -> tuple[_Seen, Any]:
    """Return the kind of a state, and those of its arrays that are looked at."""
    if isinstance(state, Health):
        return _Seen("roots"), state
    if isinstance(state, BlockedState):
        return _Seen("blocks"), (state.blocks_skipped, state.stacks.foreign)
    if isinstance(state, OrthogonalizeState):
        return _Seen("orthogonal"), jax.tree.leaves(state.error)
    if isinstance(state, FiniteStepsState):
        return _Seen("steps"), state.skipped
    if isinstance(state, KroneckerState):
        host = state.host
        return _Seen("host"), (state.count - host.in_use_from, jax.tree.leaves(host.failed), host.unserved)
    if isinstance(state, KnownParameters):
        return _Seen("known"), state.foreign
    if isinstance(state, ActivationsState):
        return _Seen("kfac"), jax.tree.leaves(state.unseen)
    return _Seen("adascale"), state


def _numbers(found: Sequence[tuple[_Seen, Any]]) -> dict[str, jax.Array]:
    """Return the numbers of one model."""

    def of(kind: str) -> list[Any]:
        return [x for seen, x in found if seen.kind == kind]

    out: dict[str, jax.Array] = {}
    if records := of("roots"):
        out |= _of_roots(records)
    if blocks := of("blocks"):
        out["blocks/skipped"] = functools.reduce(jnp.add, [jnp.sum(skipped) for skipped, _ in blocks])
    if foreign := [*(x for _, x in blocks), *of("known")]:
        out["blocks/foreign"] = functools.reduce(jnp.add, [jnp.sum(x) for x in foreign])
    if errors := [jnp.max(x) for leaves in of("orthogonal") for x in leaves]:
        out["orthogonal/error"] = functools.reduce(jnp.maximum, errors)
    if steps := of("steps"):
        out["steps/skipped"] = functools.reduce(jnp.maximum, [jnp.max(x) for x in steps])
    if unseen := [jnp.max(x) for leaves in of("kfac") for x in leaves]:
        out["kfac/unseen"] = functools.reduce(jnp.maximum, unseen)
    if on_host := of("host"):
        out |= _of_host(on_host)
    if scaled := of("adascale"):
        each = [_of_adascale(x) for x in scaled]
        out |= {key: functools.reduce(jnp.maximum, [jnp.max(x[key]) for x in each]) for key in each[0]}
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


def _of_host(engines: Sequence[Any]) -> dict[str, jax.Array]:
    return {
        "host/staleness": functools.reduce(jnp.maximum, [jnp.max(stale) for stale, _, _ in engines]),
        "host/failed": functools.reduce(jnp.add, [jnp.sum(x) for _, failed, _ in engines for x in failed]),
        "host/unserved": functools.reduce(jnp.maximum, [jnp.max(unserved) for _, _, unserved in engines]),
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
        "roots/refused_in_a_row": largest("stale"),
    }


def _by_parameter(state: Any, params: Tree) -> dict[str, jax.Array]:
    """Return the numbers of the roots of each parameter and axis."""
    leaves = jax.tree_util.tree_flatten_with_path(without_probes(unboxed(params)))[0]
    paths = {hashed(path): path for path in (path_name(place) for place, _ in leaves)}
    out: dict[str, jax.Array] = {}
    known: set[int] = set()
    for cut in find_nodes(state, StackedState):
        for place, health in jax.tree_util.tree_flatten_with_path(cut.stacks, is_leaf=_is_health)[0]:
            if not _is_health(health):
                continue
            parts = path_name(place).split("/")
            stack, axis = next(x for x in parts if x in cut.block_ids), parts[parts.index("derived") + 1]
            block_ids = cut.block_ids[stack]
            if isinstance(block_ids, Tracer) or block_ids.ndim != 2:
                raise ValueError(
                    "metrics(state, params) reads whose each root is, outside of jax.jit and of one model: call it on "
                    "the state that a step returned; of a mapped state, on jax.tree.map(lambda x: x[0], state)."
                )
            known |= {*np.asarray(block_ids[:, 0]).tolist()}
            for number in sorted({*np.asarray(block_ids[:, 0]).tolist()} & set(paths)):
                mine = block_ids[:, 0] == number
                for name, x in _of_one(health).items():
                    out[f"roots/{name}/{paths[number]}/{axis}"] = jnp.max(jnp.where(mine, x, 0))
    if known and not known & set(paths):
        raise ValueError(
            f"params= has none of the parameters whose roots state= has: {', '.join(map(repr, paths.values()))}. Give "
            f"those that it was made for."
        )
    return out


def _of_one(health: Health) -> dict[str, jax.Array]:
    return {
        "residual": health.residual,
        "condition": health.condition,
        "damping": health.damping,
        "refused_in_a_row": health.stale,
    }


def _is_health(x: Any) -> bool:
    return isinstance(x, Health)

"""Refuse the state of other parameters where the values of arrays are known."""

import warnings
from typing import Any

import jax
import numpy as np
import optax
from jax.core import Tracer

from precond.blocks.block_ids import fingerprint, hashed
from precond.blocks.check_block_ids import first_difference
from precond.blocks.known_parameters import KnownParameters
from precond.blocks.layout import Layout
from precond.blocks.path_name import leaves_of
from precond.blocks.probe import without_probes
from precond.blocks.readings import InitReport, collect_reports
from precond.blocks.stacked_state import StackedState
from precond.boxes import unboxed
from precond.trees import Tree, find_nodes

__all__ = ["count_foreign", "layouts_of", "refuse_foreign"]


def refuse_foreign(tx: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """Refuse the state of other parameters, outside of `jax.jit`.

    The update counts how often it was given such a state. A wrapper around it may throw the count away, or not run the
    update in each of its steps, so the fingerprint of the state is compared, too. Reading both waits for the device. So
    they are not read for a state that the last update returned for the same tree, and a loop waits only for its first
    step.

    Args:
      tx: a transformation whose state contains that of `precond.blocked`, or a `precond.blocks.KnownParameters`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond.engine import stacked
      >>> tx = refuse_foreign(stacked(optax.identity()))
      >>> tx.update({"b": jnp.ones((4, 6))}, tx.init({"a": jnp.ones((4, 6))}))
      Traceback (most recent call last):
      ...
      ValueError: state= is of other parameters: where 'b' of shape (4, 6) has block 0 of 4x6, it has one of a ...
    """
    trusted: list[Any] = []
    fingerprints: dict[Any, list[int]] = {}  # of the layouts of one tree

    def is_of_others(state: StackedState | KnownParameters, tree: Any, updates: Any) -> bool:
        if isinstance(state, KnownParameters):
            return False
        if tree not in fingerprints:
            fingerprints.clear()
            fingerprints[tree] = [fingerprint(layout) for layout in layouts_of(tx, updates)]
        known = np.asarray(unboxed(state).fingerprint)
        return not any(np.all(known == x) for x in fingerprints[tree])

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        out, new = tx.update(updates, state, params, **extra)
        before, after = ([*find_nodes(x, StackedState), *find_nodes(x, KnownParameters)] for x in (state, new))
        if all(_is_known(x.foreign) for x in (*before, *after)):
            tree = jax.tree.structure(updates), tuple(np.shape(x) for x in jax.tree.leaves(updates))
            last = trusted[1:] if trusted and trusted[0] == tree else []
            for old, now in zip(before, after, strict=False):
                if any(_mark(old) is x for x in last):
                    continue
                if np.any(now.foreign != old.foreign) or is_of_others(old, tree, updates):
                    raise ValueError(_why(tx, old, updates))
                _warn_if_whole(getattr(old, "stacks", ()), getattr(now, "stacks", ()))
            trusted[:] = [tree, *map(_mark, after)]
        return out, new

    return optax.GradientTransformationExtraArgs(tx.init, update)


def count_foreign(state: Any) -> jax.Array | None:
    """Add up how often the parts of a state were of other parameters; None if no part can tell.

    Args:
      state: a state of any transformation.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond.engine import stacked
      >>> count_foreign(stacked(optax.identity()).init({"a": jnp.ones((4, 6))})).item()
      0
    """
    found = [x.foreign for kind in (StackedState, KnownParameters) for x in find_nodes(state, kind)]
    return sum(found[1:], start=found[0]) if found else None


def layouts_of(tx: optax.GradientTransformation, params: Tree) -> list[Layout]:
    """Return the layouts of every `precond.blocked` in an optimizer, which say how parameters are cut into blocks.

    Args:
      tx: an optimizer.
      params: a tree of arrays, or of anything with shape and dtype.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond.engine import stacked
      >>> [layout] = layouts_of(stacked(optax.identity()), {"kernel": jnp.ones((4, 6))})
      >>> layout.blocks
      {'4x6': 1}
    """
    return _report_of(tx, params).layouts


def _report_of(tx: optax.GradientTransformation, params: Tree) -> InitReport:
    with collect_reports() as report:
        jax.eval_shape(lambda tree: tx.init(tree), params)  # JAX has cached no trace of a new function
    return report


def _mark(state: StackedState | KnownParameters) -> Any:
    """Return the array that an update passes on from the old state to the new one."""
    return state.path_hashes if isinstance(state, KnownParameters) else state.fingerprint


def _is_known(x: Any) -> bool:
    if isinstance(x, Tracer):
        return False
    return not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated


def _warn_if_whole(before: object, after: object) -> None:
    """Warn if a state was replicated before an update and is sharded after it.

    On a mesh without explicit axes this cannot be seen while a function is traced.
    """

    def known(x: object) -> bool:  # a derivative may be taken outside of jit, through some arrays alone
        return isinstance(x, jax.Array) and not isinstance(x, Tracer)

    def divided(x: jax.Array) -> bool:
        return not x.sharding.is_fully_replicated

    def whole(x: jax.Array) -> bool:
        return len(x.sharding.device_set) > 1 and x.sharding.is_fully_replicated

    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=False)
    if found := sum(known(old) and known(new) and whole(old) and divided(new) for old, new in pairs):
        warnings.warn(
            f"{found} arrays of the optimizer's state were whole on every device, and axis= divides them. Make the "
            f"state with jax.jit(tx.init, out_shardings=precond.state_shardings(tx, params, mesh)), or with tx.init "
            f"alone.",
            stacklevel=3,
        )


def _why(tx: optax.GradientTransformation, state: StackedState | KnownParameters, updates: Tree) -> str:
    if isinstance(state, KnownParameters):
        return _first_path(np.asarray(state.path_hashes), list(leaves_of(updates)))
    shapes = {path: np.shape(x) for path, x in leaves_of(without_probes(updates)).items()}
    mark: Any = unboxed(state)
    ids = mark.block_ids if isinstance(mark.block_ids, dict) else {}  # an array where no parameter has blocks
    block_ids = {name: np.asarray(x) for name, x in ids.items() if _is_known(x)}
    report = _report_of(tx, updates)
    for layout, meaning in zip(report.layouts, report.meanings, strict=True):
        if np.all(np.asarray(mark.fingerprint) == fingerprint(layout)):
            return (
                f"state= is of another power=, or of sums (b2=1) where this optimizer has averages: it has "
                f"{meaning or 'neither'}. Keep what fits: precond.checkpoints.adopt(tx, params, state)."
            )
    layouts = [x for x in report.layouts if {*x.stacks} == {*ids}]
    differences = [first_difference(block_ids, layout, shapes) for layout in layouts if len(block_ids) == len(ids)]
    return differences[0] if differences else "state= is of other parameters, or of another configuration."


def _first_path(known: np.ndarray, paths: list[str]) -> str:
    """Name the first parameter that a state knows by another path."""
    place = next(i for i, path in enumerate(paths) if known[i] != hashed(path))
    there = next((f"that of '{path}'" for path in paths if known[place] == hashed(path)), "one of another path")
    return (
        f"state= is of other parameters: where '{paths[place]}' belongs, it has {there}. Restore it with the "
        f"parameters with which it was made, or keep what fits: precond.checkpoints.adopt(tx, params, state)."
    )

"""Make a state from one of another model, another configuration, or of Adam: what fits is kept."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from precond.arguments import check_arrays, check_decay, check_known, described, is_state, shown
from precond.blocks import layouts_of
from precond.checkpoints.by_path import Record, record_of, shapes_of
from precond.checkpoints.check_moments import DEFAULTS, check_moments
from precond.checkpoints.filling import Filling
from precond.checkpoints.in_wrappers import in_wrappers
from precond.checkpoints.moments import classes_in, moments_of
from precond.checkpoints.places import AVERAGED, named_leaves, on_host, stacks_in
from precond.linalg import FixedPoint, fixed_point
from precond.trees import Tree

__all__ = ["Adopted", "adopt"]


class Adopted(NamedTuple):
    """Hold a state, and tell what became of each parameter.

    Attributes:
      state: the state for the optimizer and the parameters that `adopt` was given.
      kept: paths of the parameters of which everything was kept.
      partly: the names of the places that start again from their first values, for each parameter of which something
        was kept.
      anew: paths of the parameters of which nothing was kept.
      uncorrected: paths of the parameters whose averages start again beside a count that goes on, as it counts for all
        parameters of one of Optax's transformations. Their first steps can be several times too long or too short. No
        alias has such a count, unless its `otherwise=` does.
    """

    state: optax.OptState
    kept: tuple[str, ...]
    partly: dict[str, tuple[str, ...]]
    anew: tuple[str, ...]
    uncorrected: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return how many parameters were kept, and the first few of them, without the state."""
        fields = (f"{name}={_counted(getattr(self, name))}" for name in self._fields if name != "state")
        return f"Adopted({'; '.join(fields)})"


@described()
def adopt(
    tx: optax.GradientTransformation,
    params: Tree,
    state: Any,
    *,
    renamed: Mapping[str, str] | Callable[[str], str] | None = None,
    b1: float | None = None,
    b2: float | None = None,
) -> Adopted:
    r"""Make a state of an optimizer from another one: keep what fits, start the rest again, and report both.

    Parameters are found by their paths, in any order. So a model may gain, lose and rename parameters in the middle of
    a run, and the block size or the views may change. An array that has a number for each entry of a parameter
    (momentum, second moments) is then cut into the new blocks. Factors, roots and bases are kept if a parameter's
    blocks are the same.

    A parameter that starts again moves as in a new state. Its averages are free of the bias of their start, since the
    optimizers of this library count the steps of each parameter and of each block. Only roots follow the steps of all
    blocks together. So a new matrix gets its first root at its next turn, at most one period of the refresh later.
    Until then its direction is that of its momentum, and in `precond.kl_shampoo` it stays where it is. A part of Optax,
    as in `otherwise=optax.scale_by_adam()`, has one count for all. Then there is a warning, and `Adopted.uncorrected`
    has the parameters that start again beside this count.

    A wrapper may come or go, or parts of a chain before and after an optimizer of this library, such as
    `optax.MultiSteps` or a clip. The optimizer is found by its blocks; what the wrappers keep starts again.

    From the state of `optax.adam` or `optax.adamw`, also within `optax.chain`, `optax.partition` and other wrappers,
    the momentum and the second moments become those of the optimizer: of the graft, and of the parameters without
    blocks. Factors and roots start again. Schedules go on at Adam's step.

    Args:
      tx: the optimizer to go on with, from this library or around it.
      params: the parameters of the optimizer, a tree of arrays.
      state: the state of an optimizer, for other parameters or the same; what `precond.checkpoints.by_path` returned;
        or one that was restored from a checkpoint as plain dictionaries and lists.
      renamed: the paths in the state of parameters that have new paths: a mapping by the new path, or a function of it.
        A path that a mapping leaves out has not changed.
      b1: decay of the first moment of the Adam whose state it is, by which its bias is removed; None is Optax's
        default, 0.9.
      b2: decay of the second moment of this Adam; None is Optax's default, 0.999. If it was not given and Adam was
        stopped before its moments no longer depend on it, there is a warning.

    Returns:
      The state, on the devices where `tx.init(params)` puts it, and the report.

    Raises:
      ValueError, TypeError: for what `tx.init` does not take, and for a state of several models (`jax.vmap`); for
        momentum or second moments that are not finite; for moments that no Adam with these decays has, such as those of
        `optax.adamax` after large gradients. After small gradients these look like Adam's: do not give its state.

    Examples:
      >>> import jax.numpy as jnp, precond
      >>> params = {"kernel": jnp.ones((4, 6)), "bias": jnp.ones(6)}
      >>> old = optax.adamw(1e-3).init(params)
      >>> adopted = adopt(precond.shampoo(1e-3), params, old)
      >>> adopted.kept, list(adopted.partly)  # roots begin anew
      (('bias',), ['kernel'])
    """
    decays = {"b1": b1, "b2": b2}
    known = {name: DEFAULTS[name] if decay is None else decay for name, decay in decays.items()}
    for name, decay in known.items():
        check_decay(name, decay)
    _check_state(params, state)
    layouts, shapes = layouts_of(tx, params), shapes_of(params)
    _check_renamed(renamed)
    if isinstance(renamed, Mapping) and (unknown := [path for path in renamed if path not in shapes]):
        raise ValueError(
            f"renamed= has the new path '{unknown[0]}', but the parameters are {', '.join(map(repr, shapes))}: it is a "
            f"mapping from new paths to those in the state."
        )

    def old_path(path: str) -> str:
        old = renamed(path) if callable(renamed) else (renamed or {}).get(path, path)
        if not isinstance(old, str):
            raise TypeError(f"renamed= has {shown(old)} for '{path}', where a path in the state belongs.")
        return old

    if isinstance(state, dict) and set(state) == set(Record._fields):
        _check_record(state)
        record = Record({path: state["parameters"].get(old_path(path), {}) for path in shapes}, state["others"])
    else:
        record = record_of(named_leaves(state), shapes, layouts, old_path)
    if isinstance(renamed, Mapping) and (lost := [path for path in renamed if not record.parameters[path]]):
        raise ValueError(
            f"renamed= says that '{lost[0]}' was '{renamed[lost[0]]}', of which state= has nothing: it is a mapping "
            f"from new paths to those in the state."
        )
    _check_finite(record)
    moments, fresh = moments_of(record, **known, classes=classes_in(state)), tx.init(params)
    leaves = named_leaves(fresh)
    record = in_wrappers(record, stacks_in(leaves))
    filling = Filling(leaves, shapes, layouts, record, moments, classes_in(fresh))
    check_moments(moments, filling.asked, known, [name for name, decay in decays.items() if decay is None])
    arrays, structure = jax.tree.flatten(fresh, is_leaf=lambda x: isinstance(x, FixedPoint))
    made = [_put(filling.filled[name], x) for name, x in zip(leaves, arrays, strict=True)]
    adopted = Adopted(jax.tree.unflatten(structure, made), *filling.report(), tuple(sorted(filling.uncorrected)))
    _warn_of_shared_counts(adopted.uncorrected)
    if shapes and not adopted.kept and not adopted.partly and not _has_states(state):
        raise ValueError(
            "state= has nothing of these parameters in it: give the state of an optimizer, or what was saved of it, "
            "and not parameters. A run that begins anew needs tx.init(params) alone."
        )
    return adopted


def _counted(names: Iterable[str]) -> str:
    """Return how many names there are, and the first few of them."""
    found = list(names)
    shown_ones = "".join(f" {name!r}," for name in found[:3]).rstrip(",")
    return f"{len(found)}{':' if found else ''}{shown_ones}{', ..' if len(found) > 3 else ''}"


def _warn_of_shared_counts(paths: tuple[str, ...]) -> None:
    """Warn of parameters that start again beside a count that goes on."""
    if paths:
        warnings.warn(
            f"'{paths[0]}' starts again beside a count that goes on, as do {len(paths)} parameters in all: a "
            f"transformation of Optax in tx= has one count for all parameters. So the bias of the start of new "
            f"averages is not removed, and first steps can be several times too long or too short. Leave otherwise= "
            f"out, whose default counts for each parameter, or warm up the learning rate.",
            stacklevel=4,
        )


def _check_state(params: object, state: object) -> None:
    """Raise for anything that cannot be a state, and for parameters that are one."""
    check_known("adopt", state=state)
    if is_state(params):
        raise TypeError("params= is the state of an optimizer. The order is adopt(tx, params, state).")
    check_arrays("params", params)
    if type(state) is tuple and len(state) == 2 and jax.tree.structure(state[0]) == jax.tree.structure(params):
        raise TypeError("state= is a pair, as tx.update(..) returned: pass the second of it, which is the state.")
    if isinstance(state, optax.GradientTransformation):
        raise TypeError(f"state= is {shown(state)}, and not the state that it made.")
    if state is None or isinstance(state, str | bytes | int | float | jax.Array | np.ndarray):
        raise TypeError(
            f"state={shown(state)}: must be the state of an optimizer, as it was or as it was restored from a "
            f"checkpoint. The order is adopt(tx, params, state)."
        )


def _check_renamed(renamed: Any) -> None:
    """Raise for a mapping that gives the numbers of one parameter to several."""
    olds = list(renamed.values()) if isinstance(renamed, Mapping) else []
    if twice := [old for old in olds if olds.count(old) > 1]:
        raise ValueError(
            f"renamed= gives '{twice[0]}' to several parameters, and the numbers of a parameter belong to one alone. "
            f"Name it once; the others begin anew."
        )


def _check_record(state: Mapping[str, Any]) -> None:
    """Raise for a dictionary that looks like one of `by_path`, and has other things in it."""
    for name in Record._fields:
        if not isinstance(state[name], Mapping):
            raise TypeError(f"state['{name}'] is {shown(state[name])}: must be a dictionary, as by_path made it.")
    for path, places in state["parameters"].items():
        if not isinstance(places, Mapping):
            raise TypeError(
                f"state['parameters']['{path}'] is {shown(places)}: must be a dictionary of arrays, as by_path made it."
            )


def _check_finite(record: Record) -> None:
    """Raise for averages of gradients that are not finite, which would never become finite again."""
    for path, places in record.parameters.items():
        for place, x in places.items():
            averaged = not AVERAGED.isdisjoint(place.split("/"))
            if averaged and jnp.issubdtype(x.dtype, jnp.inexact) and not jnp.isfinite(jnp.asarray(x)).all():
                raise ValueError(
                    f"state= has numbers in '{place}' of '{path}' that are not finite, and all later updates of it "
                    f"would not be, either: take an earlier checkpoint, or begin anew with tx.init(params)."
                )


def _has_states(tree: object) -> bool:
    """Return whether there is a named tuple in a tree, as Optax's states are; it may be empty."""
    named = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, tuple) and hasattr(x, "_fields"))
    return any(isinstance(x, tuple) for x in named)


def _put(x: Any, like: Any) -> Any:
    """Put numbers where an array of a new state lies, in its dtype."""
    if isinstance(like, FixedPoint):
        return jax.tree.map(lambda part, old: _put(np.asarray(part), old), fixed_point(jnp.asarray(on_host(x))), like)
    if x is like or not isinstance(like, jax.Array) or isinstance(x, jax.Array):
        return x
    x = x.real if np.iscomplexobj(x) and not np.iscomplexobj(like) else x
    x = np.asarray(x).astype(like.dtype)
    return jax.device_put(x, like.sharding) if like.committed else jnp.asarray(x)

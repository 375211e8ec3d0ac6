"""Explain why an update failed, by the names of the trees that do not belong together."""

import linecache
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from precond.arguments.user_trees import check_arrays, check_trees, check_values, is_state, paths_of
from precond.arguments.whose import whose

__all__ = ["explained"]

_FAILURES = (TypeError, ValueError, KeyError, AttributeError, IndexError)


def explained(
    tx: optax.GradientTransformationExtraArgs, name: str = "this optimizer"
) -> optax.GradientTransformationExtraArgs:
    """Return the transformation; if its `init` or `update` fails because of what it was given, the error says why.

    Where nothing fails, shapes alone are compared: a state of other parameters may change those of the updates.

    Args:
      tx: a transformation.
      name: how to call it.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx = explained(optax.with_extra_args_support(optax.adam(1e-3)))
      >>> params = {"kernel": jnp.ones(2)}
      >>> tx.update(tx.init(params), params)
      Traceback (most recent call last):
      ...
      TypeError: update() was given the state of an optimizer in place of gradients. The order is ...
    """

    def init(params: Any) -> Any:
        try:
            return tx.init(params)
        except _FAILURES as error:
            if not _says_why(error):
                check_arrays("params", params)
            raise

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        try:
            moved, new = tx.update(updates, state, params, **extra)
        except _FAILURES as error:
            if params is None and "`params`" in str(error) and not _says_why(error):
                raise ValueError(f"{name} needs the parameters: tx.update(gradients, state, params).") from error
            if not _says_why(error) and (why := _reason(tx.init, updates, state, params, name)) is not None:
                raise why from error
            if str(error).startswith("state=") and (why := _of_another(tx.init, updates, state, params, name)):
                raise why from error
            raise
        if _shapes(moved) != _shapes(updates) or _shapes(new) != _shapes(state):
            other = ValueError("state= is of other parameters: the update has other shapes than the gradients.")
            raise _reason(tx.init, updates, state, params, name) or other
        return moved, new

    return optax.GradientTransformationExtraArgs(init, update)


def _shapes(tree: object) -> list[tuple[int, ...]]:
    return [np.shape(x) for x in jax.tree.leaves(tree)]


def _says_why(error: Exception) -> bool:
    """Return whether an error is one of this library's own: one of our lines raised it, which begins with `raise`."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    if trace is None or place.partition(".")[0] != "precond":
        return False
    line = linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno)
    return line.lstrip().startswith("raise ")


def _reason(init: Callable[[Any], Any], updates: Any, state: Any, params: Any, name: str) -> Exception | None:
    """Return the error that tells what is wrong with the arguments of an update, or None."""
    try:
        if is_state(updates):
            raise TypeError(
                "update() was given the state of an optimizer in place of gradients. The order is "
                "tx.update(gradients, state, params)."
            )
        check_arrays("updates", updates)
        check_values(updates=updates, state=state, params=params)
        if params is not None:
            if is_state(params):
                raise TypeError(
                    "params= is the state of an optimizer. The order is tx.update(gradients, state, params)."
                )
            check_arrays("params", params)
            check_trees(updates, params)
        _check_state(init, state, updates if params is None else params, name)
    except (TypeError, ValueError) as error:
        return error
    return None


def _of_another(init: Callable[[Any], Any], updates: Any, state: Any, params: Any, name: str) -> Exception | None:
    """Return the error for a state of another optimizer, or None for one of this."""
    try:
        _check_state(init, state, updates if params is None else params, name)
    except ValueError as error:
        return error if f"not of {name}" in str(error) else None
    return None


def _check_state(init: Callable[[Any], Any], state: Any, params: Any, name: str) -> None:
    """Raise unless a state is one that `init` makes for these parameters."""
    if state is None:
        raise TypeError("state=None: pass what init(params) returned, or the last update.")
    try:
        expected = jax.eval_shape(lambda p: init(p), params)
    except _FAILURES:
        return
    ours, found = paths_of(expected), paths_of(state)
    bare = [{path.removesuffix("/value") for path in paths} for paths in (ours, found)]
    if bare[0] == bare[1] and ours.keys() != found.keys():
        boxed = "state= is" if len("".join(found)) > len("".join(ours)) else "The gradients are"
        raise ValueError(
            f"{boxed} in Flax's boxes, and the rest is not: take all out of them, by flax.linen.unbox, or nothing."
        )
    owner = whose(state)
    other = "state= is of another optimizer, or of other parameters:"
    if owner is not None:
        # An optimizer that is also the nearest to a new state of this one counts as this one.
        same = owner in (name, whose(expected))
        another = f"state= is of {owner}, as it seems, and not of {name}:"
        alike = f"state= is of {name} with other parameters or arguments, or of one that is alike:"
        other = alike if same else another
    advice = (
        "Pass the state that init of this optimizer made for these parameters, or keep what fits: "
        "precond.checkpoints.adopt(tx, params, state)."
    )
    if difference := _first_difference(expected, state):
        raise ValueError(f"{other} {difference}. {advice}")
    if owner is None and jax.tree.structure(state) != jax.tree.structure(expected):
        raise ValueError(
            "state= has the arrays of this optimizer in other containers, as a checkpoint has that was restored "
            "without a target: precond.checkpoints.adopt(tx, params, state) makes a state of it."
        )


def _first_difference(expected: Any, state: Any) -> str:
    """Name the first array that a state lacks, has too much, or has in another shape, or return an empty text."""
    ours, found = paths_of(expected), paths_of(state)
    # Where a parameter has blocks, the state of Adam for the others has a node without leaves.
    for mine, theirs in ((ours, found), (_empty_nodes(expected), _empty_nodes(state))):
        for path in mine:
            if path not in theirs:
                return f"it has no '{path}'"
        for path in theirs:
            if path not in mine:
                return f"it has '{path}', too"
    for path, leaf in ours.items():
        if np.shape(found[path]) != leaf.shape:
            return f"'{path}' has the shape {np.shape(found[path])}, not {leaf.shape}"
    return ""


def _empty_nodes(tree: Any) -> dict[str, Any]:
    """Return by path the nodes that contain nothing."""
    flat = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: jax.tree.structure(x).num_nodes == 1)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in flat if not jax.tree.leaves(x)}

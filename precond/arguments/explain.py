"""Why an update failed: trees that do not belong together, said by name."""

import linecache
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from precond.arguments.shown import shown
from precond.arguments.whose import whose

__all__ = ["check_arrays", "check_trees", "explained", "fitting_mask", "is_state"]

_FAILURES = (TypeError, ValueError, KeyError, AttributeError, IndexError)


def explained(
    tx: optax.GradientTransformationExtraArgs, name: str = "this optimizer"
) -> optax.GradientTransformationExtraArgs:
    """Return the transformation; if its `init` or `update` fails because of what it was given, the error says why.

    Where nothing fails, shapes alone are compared: a state of other parameters may change those of the updates.

    Args:
      tx: any transformation.
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
        _check_values(updates=updates, state=state, params=params)
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


def _check_values(**trees: object) -> None:
    """Raise for trees of shapes alone."""
    for name, tree in trees.items():
        for path, leaf in _paths(tree).items():
            if isinstance(leaf, jax.ShapeDtypeStruct):
                raise TypeError(
                    f"{name}= has a shape without numbers at '{path}', as jax.eval_shape returns. Give arrays, or call "
                    f"tx.update under jax.eval_shape, too."
                )


def is_state(tree: object) -> bool:
    """Return whether a tree has the state of a transformation in it.

    Examples:
      >>> import jax.numpy as jnp
      >>> is_state(optax.adam(1e-3).init(jnp.ones(2))), is_state({"kernel": jnp.ones(2)})
      (True, False)
    """
    if isinstance(tree, tuple) and type(tree).__name__.endswith("State"):
        return True
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, tuple | list) else ()
    return any(is_state(child) for child in children)


def _paths(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def check_arrays(name: str, tree: Any) -> None:
    """Raise unless all leaves of a tree are arrays, or numbers.

    Args:
      name: of the argument.
      tree: anything.

    Raises:
      TypeError: naming the first leaf that is neither.

    Examples:
      >>> check_arrays("params", {"kernel": "dense"})
      Traceback (most recent call last):
      TypeError: params= has 'dense' at 'kernel', where an array belongs.
    """
    for path, leaf in _paths(tree).items():
        number = isinstance(leaf, int | float | complex | np.generic) or hasattr(leaf, "__jax_array__")
        dtype = getattr(leaf, "dtype", None)
        array = hasattr(leaf, "shape") and isinstance(dtype, np.dtype) and dtype.kind not in "OSUMm"
        if number or array:
            continue
        if isinstance(leaf, jax.Array):  # keys of jax.random
            continue
        where = f" at '{path}'" if path else ""
        advice = ""
        if hasattr(leaf, "detach") or type(leaf).__module__.startswith("torch"):
            advice = " Convert tensors of PyTorch to arrays of JAX."
        elif callable(leaf) or hasattr(leaf, "apply"):
            advice = " Pass the parameters of a model, not the model."
        raise TypeError(f"{name}= has {shown(leaf)}{where}, where an array belongs.{advice}")


def check_trees(updates: Any, params: Any) -> None:
    """Raise unless gradients and parameters are trees of one structure.

    Args:
      updates: a tree of gradients.
      params: a tree of parameters.

    Raises:
      ValueError: naming the first parameter that only one of them has.

    Examples:
      >>> check_trees({"kernel": 1.0}, {"kernel": 1.0, "bias": 1.0})
      Traceback (most recent call last):
      ValueError: The gradients have no 'bias', which the parameters have: both must be trees of one structure.
    """
    if jax.tree.structure(updates) == jax.tree.structure(params):
        return
    if isinstance(updates, tuple | list) and any(jax.tree.structure(x) == jax.tree.structure(params) for x in updates):
        raise ValueError(
            f"The gradients are a {type(updates).__name__} of {len(updates)} with the gradients in it, as "
            f"jax.value_and_grad returns: pass the gradients alone."
        )
    first, second = _paths(updates), _paths(params)
    must = "both must be trees of one structure."
    for path in second:
        if path not in first:
            raise ValueError(f"The gradients have no '{path}', which the parameters have: {must}")
    for path in first:
        if path not in second:
            raise ValueError(f"The parameters have no '{path}', which the gradients have: {must}")
    kinds = type(updates).__name__, type(params).__name__
    how = f" (a {kinds[0]} and a {kinds[1]})" if kinds[0] != kinds[1] else ""
    raise ValueError(f"The gradients and the parameters have the same leaves in other containers{how}: {must}")


def fitting_mask(mask: object) -> Callable[[object], Any]:
    """Return a function from parameters to a mask of them, which raises for a mask that does not fit.

    Args:
      mask: a tree of booleans, or a function that makes one, as in `optax.masked`.

    Raises:
      ValueError: in its call, for a mask of other parameters.
      TypeError: in its call, for a leaf that is not a boolean.

    Examples:
      >>> fitting_mask({"kernle": True})({"kernel": 1.0})
      Traceback (most recent call last):
      ValueError: mask= has 'kernle', which the parameters have not: it must be a tree of booleans like them.
    """

    def fitted(params: object) -> Any:
        made = mask(params) if callable(mask) else mask
        must = "it must be a tree of booleans like them."
        for path, leaf in _paths(made).items():
            if np.ndim(leaf) or (leaf.dtype if hasattr(leaf, "dtype") else np.result_type(type(leaf))).kind != "b":
                raise TypeError(f"mask= has {shown(leaf)} at '{path}', where True or False belongs.")
        try:
            jax.tree.map(lambda m, p: None, made, params)
        except ValueError:
            found, wanted = _paths(made), _paths(params)
            for path in found:
                if not any(f"{x}/".startswith(f"{path}/") for x in wanted):
                    raise ValueError(f"mask= has '{path}', which the parameters have not: {must}") from None
            missing = [x for x in wanted if not any(f"{x}/".startswith(f"{path}/") for path in found)]
            what = (
                f"mask= has no '{missing[0]}', which the parameters have" if missing else "mask= has other containers"
            )
            raise ValueError(f"{what}: {must}") from None
        return made

    return fitted


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
    ours, found = _paths(expected), _paths(state)
    bare = [{path.removesuffix("/value") for path in paths} for paths in (ours, found)]
    if bare[0] == bare[1] and ours.keys() != found.keys():
        boxed = "state= is" if len("".join(found)) > len("".join(ours)) else "The gradients are"
        raise ValueError(
            f"{boxed} in Flax's boxes, and the rest is not: take all out of them, by flax.linen.unbox, or nothing."
        )
    owner = whose(state)
    other = "state= is of another optimizer, or of other parameters:"
    if owner is not None:
        # The nearest of all is no other optimizer where it is the nearest to a state of this one, too.
        same = owner == whose(expected)
        another = f"state= is of {owner}, as it seems, and not of {name}:"
        alike = f"state= is of {name} with other parameters or arguments, or of one that is alike:"
        other = alike if same else another
    advice = (
        "Pass the state that init of this optimizer made for these parameters, or keep what fits: "
        "precond.checkpoints.adopt(tx, params, state)."
    )
    for path in ours:
        if path not in found:
            raise ValueError(f"{other} it has no '{path}'. {advice}")
    for path in found:
        if path not in ours:
            raise ValueError(f"{other} it has '{path}', too. {advice}")
    for path, leaf in ours.items():
        if np.shape(found[path]) != leaf.shape:
            raise ValueError(f"{other} '{path}' has the shape {np.shape(found[path])}, not {leaf.shape}. {advice}")
    if owner is None and jax.tree.structure(state) != jax.tree.structure(expected):
        raise ValueError(
            "state= has the arrays of this optimizer in other containers, as a checkpoint has that was restored "
            "without a target: precond.checkpoints.adopt(tx, params, state) makes a state of it."
        )

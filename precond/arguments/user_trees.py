"""Check trees that a user gave: they hold arrays, have one structure, and have keys that can be sorted."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.core import Tracer

from precond.arguments.shown import shown

__all__ = [
    "check_arrays",
    "check_keys",
    "check_known",
    "check_state",
    "check_trees",
    "check_values",
    "fitting_mask",
    "is_state",
    "paths_of",
]


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


def paths_of(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by path.

    Args:
      tree: anything.

    Examples:
      >>> paths_of({"dense": {"kernel": 1.0}})
      {'dense/kernel': 1.0}
    """
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def check_keys(name: str, tree: Any) -> None:
    """Raise if a dictionary has keys that cannot be sorted, such as numbers beside strings: JAX sorts them.

    Args:
      name: the name of the argument.
      tree: anything.

    Raises:
      TypeError: naming two of the keys.

    Examples:
      >>> check_keys("params", {"dense": {0: 1.0, "bias": 2.0}})
      Traceback (most recent call last):
      TypeError: params= has the keys 0 and 'bias' in one dictionary, at 'dense', which JAX cannot sort: write ...
    """
    _check_keys(name, tree, "")


def _check_keys(name: str, tree: Any, place: str) -> None:
    if isinstance(tree, Mapping):
        first: Any = next(iter(tree), None)
        for key in tree:
            if isinstance(key, str) != isinstance(first, str):
                number, other = sorted((first, key), key=lambda x: isinstance(x, str))
                where = f", at '{place}'" if place else ""
                raise TypeError(
                    f"{name}= has the keys {number!r} and {other!r} in one dictionary{where}, which JAX cannot sort: "
                    f"write {str(number)!r} for {number!r}."
                )
    pairs = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    for key, child in pairs:
        _check_keys(name, child, f"{place}/{key}" if place else str(key))


def check_known(call: str, instead: str = "", **trees: object) -> None:
    """Raise for trees whose numbers a call must read, if they are shapes or traced arrays.

    Args:
      call: the name of the function that reads them.
      instead: what to write instead, where there is another way.
      **trees: the trees, by the names of the arguments.

    Raises:
      TypeError: naming the first leaf without numbers.

    Examples:
      >>> check_known("adopt", state={"count": jax.ShapeDtypeStruct((), "int32")})
      Traceback (most recent call last):
      TypeError: state= has a shape without numbers at 'count', and adopt() reads numbers: call it outside of ...
    """
    kinds = {jax.ShapeDtypeStruct: "a shape without numbers", Tracer: "a traced array"}
    _refuse(
        kinds,
        f", and {call}() reads numbers: call it outside of jax.jit and jax.eval_shape, with arrays.{instead}",
        trees,
    )


def check_values(**trees: object) -> None:
    """Raise for trees of shapes alone.

    Args:
      **trees: the trees, by the names of the arguments.

    Raises:
      TypeError: naming the first shape.

    Examples:
      >>> check_values(state={"count": jax.ShapeDtypeStruct((), "int32")})
      Traceback (most recent call last):
      TypeError: state= has a shape without numbers at 'count', as jax.eval_shape returns. Give arrays, or make this ...
    """
    advice = ", as jax.eval_shape returns. Give arrays, or make this call under jax.eval_shape, too."
    _refuse({jax.ShapeDtypeStruct: "a shape without numbers"}, advice, trees)


def _refuse(kinds: Mapping[type, str], advice: str, trees: Mapping[str, object]) -> None:
    """Raise for the first leaf of one of these kinds."""
    for name, tree in trees.items():
        check_keys(name, tree)
        if not any(isinstance(x, tuple(kinds)) for x in jax.tree.leaves(tree)):
            continue
        for path, leaf in paths_of(tree).items():
            for kind, what in kinds.items():
                if isinstance(leaf, kind):
                    where = f" at '{path}'" if path else ""
                    raise TypeError(f"{name}= has {what}{where}{advice}")


def _is_array(leaf: Any) -> bool:
    """Return whether a leaf is an array, of keys of jax.random too, or a number."""
    dtype = getattr(leaf, "dtype", None)
    array = hasattr(leaf, "shape") and isinstance(dtype, np.dtype) and dtype.kind not in "OSUMm"
    number = isinstance(leaf, int | float | complex | np.generic | jax.Array) or hasattr(leaf, "__jax_array__")
    return array or number


def check_state(place: str, state: Any) -> None:
    """Raise for anything but the state of an optimizer, or a tree with some in it.

    Args:
      place: which function it was given to.
      state: anything.

    Raises:
      TypeError: for an optimizer, for parameters, and for shapes without numbers.

    Examples:
      >>> check_state("metrics()", {"kernel": 1.0})
      Traceback (most recent call last):
      TypeError: metrics() was given a dict with the keys 'kernel', which has no state of an optimizer in it: pass ...
    """
    if isinstance(state, optax.GradientTransformation):
        raise TypeError(f"{place} was given {shown(state)}, where its state belongs: tx.init(params).")
    check_arrays("state", state)
    check_values(state=state)
    leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, tuple) and hasattr(x, "_fields"))
    empty = state is None or (isinstance(state, dict | list) and not state)
    if empty or (leaves and not any(isinstance(x, tuple) for x in leaves)):
        raise TypeError(
            f"{place} was given {shown(state)}, which has no state of an optimizer in it: pass what tx.init(params) or "
            f"tx.update(..) returned, and not parameters, nor a checkpoint that was restored as plain arrays."
        )


def check_arrays(name: str, tree: Any) -> None:
    """Raise unless all leaves of a tree are arrays, or numbers.

    Args:
      name: the name of the argument.
      tree: anything.

    Raises:
      TypeError: naming the first leaf that is neither.

    Examples:
      >>> check_arrays("params", {"kernel": "dense"})
      Traceback (most recent call last):
      TypeError: params= has 'dense' at 'kernel', where an array belongs.
    """
    try:
        leaves = jax.tree.leaves(tree)
    except (TypeError, ValueError):
        check_keys(name, tree)
        raise
    if all(map(_is_array, leaves)):
        return
    for path, leaf in paths_of(tree).items():
        if _is_array(leaf):
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
    first, second = paths_of(updates), paths_of(params)
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
        for path, leaf in paths_of(made).items():
            if np.ndim(leaf) or (leaf.dtype if hasattr(leaf, "dtype") else np.result_type(type(leaf))).kind != "b":
                raise TypeError(f"mask= has {shown(leaf)} at '{path}', where True or False belongs.")
        try:
            jax.tree.map(lambda m, p: None, made, params)
        except ValueError:
            found, wanted = paths_of(made), paths_of(params)
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

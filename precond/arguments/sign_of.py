"""Tell by a trial step on small numbers whether a transformation goes along the gradient or against it."""

import inspect
import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from precond.arguments.can_be_tried import can_be_tried
from precond.arguments.described import Described
from precond.arguments.missing_argument_error import MissingArgumentError
from precond.arguments.remembered import remembered
from precond.arguments.shown import shown

__all__ = ["SignTrial", "sign_of", "try_sign", "why_it_fails"]

_STEPS, _ROUNDING, _FEW = 8, 1e-6, 10**6
# Python says this where a function of another library lacks an argument.
_MISSING = re.compile(r"missing \d+ required (keyword-only|positional) argument")


class SignTrial(NamedTuple):
    """Hold the result of a trial step of a transformation.

    Attributes:
      sign: 1 if it goes along the gradient, -1 if it goes against it in some parameter, 0 if the trial cannot tell.
      wrong: the fault of its updates; empty if they are good.
      failed: the reason why it could not take the step; empty if it could.
      lacks: whether the reason is a missing argument that a trial cannot give, such as captured factors.
    """

    sign: int = 0
    wrong: str = ""
    failed: str = ""
    lacks: bool = False


def sign_of(tx: optax.GradientTransformation, tree: optax.Params | None = None, *, costly: bool = False) -> int:
    """Return 1 for a transformation that goes along the gradient, -1 for one that goes against it, 0 where unknown.

    The optimizers and the parts of this library say it themselves. Any other transformation takes a step with a
    positive gradient: the sign of the inner product of its update with the gradient tells. That is done on a few
    numbers at `init`, where JAX has been started anyway. It is unknown what depends on traced hyperparameters, needs
    further arguments than Optax's own, moves nothing in the first steps, calls the host, or decomposes matrices (unless
    `costly`).

    Args:
      tx: a transformation of parameters, or of stacks of blocks.
      tree: a tree of the parameters or stacks that it will see, if they are known: masks and labels are made for this
        tree.
      costly: whether to take the step even where matrices are decomposed.

    Examples:
      >>> (
      ...     sign_of(optax.scale_by_adam()),
      ...     sign_of(optax.adam(1e-3)),
      ...     sign_of(optax.set_to_zero()),
      ... )
      (1, -1, 0)
      >>> sign_of(
      ...     optax.masked(optax.adam(1e-3), {"a": True, "b": False}), {"a": 0.0, "b": 0.0}
      ... )
      -1
    """
    return try_sign(tx, tree, costly=costly).sign


def try_sign(tx: optax.GradientTransformation, tree: optax.Params | None = None, *, costly: bool = False) -> SignTrial:
    """Let a transformation take a trial step: on one matrix, and then on a small tree like the one that it will see.

    The matrix is enough for most transformations. The tree is tried where masks or labels may choose among its leaves,
    and where the matrix does not fit. Trials are kept, since every part of an optimizer that is made of others asks for
    those of its own parts.

    Args:
      tx: as in `sign_of`.
      tree: as in `sign_of`.
      costly: as in `sign_of`.

    Examples:
      >>> try_sign(optax.masked(optax.identity(), {"a": True})).failed.partition(" ")[0]
      'ValueError:'
    """
    if isinstance(tx, Described) and tx.sign:
        return SignTrial(tx.sign)
    on_matrix = _probed(tx, costly, _MATRIX)
    if tree is None or on_matrix.sign < 0 or not jax.tree.leaves(tree):
        return on_matrix
    fits = not on_matrix.wrong and not on_matrix.failed
    small = jax.tree.map(_small, tree)
    if fits and not _chooses(tx, small):
        return on_matrix
    on_tree = _probed(tx, costly, small)
    if on_tree.failed and sum(map(jnp.size, jax.tree.leaves(tree))) <= _FEW:  # it may be made for these very shapes
        on_tree = _probed(tx, costly, jax.tree.map(lambda leaf: _small(leaf, None), tree))
    return on_matrix if on_tree.failed and fits else on_tree


def _chooses(tx: optax.GradientTransformation, tree: optax.Params) -> bool:
    """Return whether a transformation treats parameters differently, by masks or labels made for their tree."""
    try:
        state = jax.eval_shape(tx.init, tree)
    except Exception:
        return False
    return any(map(_is_masked, jax.tree.leaves(state, is_leaf=_is_masked)))


def _is_masked(node: object) -> bool:
    return isinstance(node, optax.MaskedState | optax.MaskedNode)


def why_it_fails(tx: optax.GradientTransformation, tree: optax.Params) -> str:
    """Return why a transformation cannot update a tree; empty if it can, and gives updates of the same shapes.

    Args:
      tx: as in `sign_of`.
      tree: a tree of parameters or stacks.

    Examples:
      >>> why_it_fails(optax.masked(optax.identity(), {"a": True}), {"a": jnp.ones(2)})
      ''
    """
    try:
        jax.eval_shape(lambda p: _step(tx, p, tx.init(p)), tree)
    except Exception as error:
        return _in_short(error)
    return ""


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:200]


def _probed(tx: optax.GradientTransformation, costly: bool, like: object) -> SignTrial:
    """Try a transformation on a tree of shapes."""
    leaves, treedef = jax.tree.flatten(like)
    try:
        return _kept(tx, costly, treedef, tuple(leaves))
    except _NotHereError:
        return SignTrial()


@remembered
def _kept(tx: optax.GradientTransformationExtraArgs, costly: bool, treedef: Any, leaves: tuple[Any, ...]) -> SignTrial:
    return _probe(tx.init, tx.update, costly, treedef.unflatten(leaves))


# As a stack of one block, 2 x 2, it can be a part within `blocked`; its name says so.
_MATRIX = {"2x2": jax.ShapeDtypeStruct((1, 2, 2), jnp.float32)}


def _small(leaf: jax.typing.ArrayLike | jax.ShapeDtypeStruct, longest: int | None = 2) -> jax.ShapeDtypeStruct:
    """Return a leaf of as many axes, none of which is longer than this, in float32."""
    dtype = jnp.result_type(leaf)
    shape = tuple(d if longest is None else min(d, longest) for d in jnp.shape(leaf))
    return jax.ShapeDtypeStruct(shape, jnp.float32 if jnp.issubdtype(dtype, jnp.inexact) else dtype)


def _numbers(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Return positive numbers of a leaf's shape: 1, 2, 3, 5, .."""
    count = jnp.arange(1, leaf.size + 1)
    return (count + (count > 3)).reshape(leaf.shape).astype(leaf.dtype)


class _NotHereError(Exception):
    """Say that a trial cannot be computed here, as under an abstract mesh, and may be elsewhere."""


class _NoUpdateError(Exception):
    """Say that an update returned something other than a tree of updates."""


def _probe(init: Callable[..., Any], update: Callable[..., Any], costly: bool, like: object) -> SignTrial:
    tx = optax.GradientTransformationExtraArgs(init, update)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            traced = jax.make_jaxpr(lambda g: _step(tx, g, _begun(tx, g)))(like)
        except _NoUpdateError as why:
            return SignTrial(wrong=str(why))
        except Exception as error:  # it may need more than a gradient
            lacks = isinstance(error, MissingArgumentError) or _MISSING.search(str(error)) is not None
            return SignTrial(failed=_in_short(error), lacks=lacks)
        if any(isinstance(x, Tracer) for x in traced.consts):
            raise _NotHereError
        if not can_be_tried(traced, costly=costly):
            return SignTrial()
        try:
            with jax.ensure_compile_time_eval():
                return SignTrial(_sign(tx, jax.tree.map(_numbers, like)))
        except Exception as error:
            raise _NotHereError from error


def _sign(tx: optax.GradientTransformation, gradient: optax.Updates) -> int:
    """Return the sign of the first updates that move anything: -1 if one of them goes against its gradient."""
    # Operation by operation: XLA has compiled most of them before.
    state, products = _begun(tx, gradient), []
    for _ in range(_STEPS):  # a schedule may begin at 0, and gradients may be gathered
        products, moves, state = _step(tx, gradient, state)
        if moves:
            break
    signs = {(float(p) > 0) - (float(p) < 0) for p in products}
    return -1 if -1 in signs else max(signs, default=0)


def _begun(tx: optax.GradientTransformation, gradient: optax.Updates) -> optax.OptState:
    return tx.init(jax.tree.map(_half, gradient))


def _half(gradient: jax.Array) -> jax.Array:
    """Return values to use as parameters: half of the gradient, in another order."""
    return (0.5 * (gradient[..., ::-1] if gradient.ndim else gradient)).astype(gradient.dtype)


def _step(
    tx: optax.GradientTransformation, gradient: optax.Updates, state: optax.OptState
) -> tuple[list[jax.Array], jax.Array, optax.OptState]:
    """Return the products of updates and gradients by leaf, without rounding; whether anything moves; the state."""

    def loss(params: optax.Params) -> jax.Array:
        return jnp.asarray(0.5 * sum(jnp.sum(p * p) for p in jax.tree.leaves(params)), jnp.float32)

    params = jax.tree.map(_half, gradient)
    extra = _taken(tx.update, {"value": loss(params), "grad": gradient, "value_fn": loss})
    given: Any = cast(Any, tx.update)(gradient, state, params, **extra)
    if not (isinstance(given, tuple) and len(given) == 2):
        raise _NoUpdateError(f"gives {shown(given)}, where a pair belongs: the updates and the state")
    moved, state = given
    shapes = [[jnp.shape(x) for x in jax.tree.leaves(tree)] for tree in (moved, gradient)]
    if jax.tree.structure(moved) != jax.tree.structure(gradient) or shapes[0] != shapes[1]:
        raise _NoUpdateError(f"gives {shown(moved)}, where a tree like the gradients belongs, of the same shapes")
    pairs = list(zip(*map(jax.tree.leaves, (moved, gradient)), strict=True))
    products = [u * g for u, g in pairs]
    rounded = [jnp.abs(jnp.sum(p)) > _ROUNDING * jnp.sum(jnp.abs(p)) for p in products]
    signed = [jnp.where(kept, jnp.sum(p), 0) for kept, p in zip(rounded, products, strict=True)]
    moves = [jnp.any(jnp.abs(u) > _ROUNDING) for u, _ in pairs]
    return signed, jnp.any(jnp.asarray(moves)), state


def _taken(update: Callable[..., Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Return those extra arguments of Optax that an update takes: line searches and schedules ask for them."""
    try:
        takes = inspect.signature(update).parameters.values()
    except (TypeError, ValueError):
        return {}
    every = any(p.kind == inspect.Parameter.VAR_KEYWORD for p in takes)
    return extra if every else {p.name: extra[p.name] for p in takes if p.name in extra}

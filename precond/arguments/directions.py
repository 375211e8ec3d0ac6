"""Whether a transformation goes along the gradient or against it: a direction, or a whole optimizer."""

import functools
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from precond.arguments.described import Described
from precond.arguments.shown import shown

__all__ = ["as_direction", "check_direction", "check_optimizer", "check_signs", "refuse_optimizers", "sign_of"]

_STEPS, _ROUNDING = 8, 1e-6
_COSTLY = {"eigh", "eig", "qr", "svd", "cholesky", "geqrf", "householder_product", "lu", "while", "scan", "shard_map"}


def sign_of(tx: optax.GradientTransformation, *, costly: bool = False) -> int:
    """Return 1 for a transformation that goes along the gradient, -1 for one that goes against it, 0 where unknown.

    The optimizers and the parts of this library say it themselves. Any other transformation takes a step with a
    positive gradient: the sign of the inner product of its update with the gradient tells. That is done on two numbers
    at `init`, where JAX has been started anyway. It is unknown what depends on traced hyperparameters, needs further
    arguments, moves nothing in the first steps, or decomposes matrices (unless `costly`).

    Args:
      tx: any transformation of parameters, or of stacks of blocks.
      costly: whether to take the step even where matrices are decomposed.

    Examples:
      >>> (
      ...     sign_of(optax.scale_by_adam()),
      ...     sign_of(optax.adam(1e-3)),
      ...     sign_of(optax.set_to_zero()),
      ... )
      (1, -1, 0)
    """
    if isinstance(tx, Described) and tx.sign:
        return tx.sign
    return _probed(tx.init, tx.update, costly)[0]


class _NoUpdateError(Exception):
    """An update gave something that is not a tree of updates."""


def _check_update(name: str, tx: optax.GradientTransformation, tree: Any = None) -> None:
    """Raise if it is known that a part does not give updates, for the tree that it will see where that is known."""
    if isinstance(tx, Described) and tx.sign:
        return
    why = _probed(tx.init, tx.update, False)[1]
    if why and not (tree is not None and _is_made_for(tx, tree)):
        raise TypeError(f"{name}= has an update that {why}.")


def _is_made_for(tx: optax.GradientTransformation, tree: Any) -> bool:
    """Return whether the updates of a part have the shapes of a tree, though they have not those of other trees."""
    try:
        moved, shapes = jax.eval_shape(lambda p: (tx.update(p, tx.init(p), p)[0], p), tree)
    except Exception:  # it fails for this tree, too
        return False
    return moved == shapes


def _probed(init: Callable[..., Any], update: Callable[..., Any], costly: bool) -> tuple[int, str]:
    """Return the sign, and what is wrong with the updates. Both are found once, and kept by weak references."""
    try:
        return _kept(weakref.ref(init), weakref.ref(update), costly)
    except TypeError:  # there is no weak reference to some functions
        return _probe(init, update, costly)


@functools.lru_cache(maxsize=64)
def _kept(init: Callable[[], Any], update: Callable[[], Any], costly: bool) -> tuple[int, str]:
    return _probe(init(), update(), costly)


def _probe(init: Callable[..., Any], update: Callable[..., Any], costly: bool) -> tuple[int, str]:
    tx = optax.with_extra_args_support(optax.GradientTransformationExtraArgs(init, update))
    if not isinstance(tx, optax.GradientTransformationExtraArgs):
        return 0, ""

    def begun(gradient: Any) -> Any:
        return tx.init(jax.tree.map(lambda g: 0.5 * g[..., ::-1], gradient))

    def step(gradient: Any, state: Any) -> tuple[jax.Array, jax.Array, Any]:
        given: Any = tx.update(gradient, state, jax.tree.map(lambda g: 0.5 * g[..., ::-1], gradient))
        if not (isinstance(given, tuple) and len(given) == 2):
            raise _NoUpdateError(f"gives {shown(given)}, where a pair belongs: the updates and the state")
        moved, state = given
        shapes = [[jnp.shape(x) for x in jax.tree.leaves(tree)] for tree in (moved, gradient)]
        if jax.tree.structure(moved) != jax.tree.structure(gradient) or shapes[0] != shapes[1]:
            raise _NoUpdateError(f"gives {shown(moved)}, where a tree like the gradients belongs, of the same shapes")
        products = (jnp.sum(u * g) for u, g in zip(*map(jax.tree.leaves, (moved, gradient)), strict=True))
        moves = [jnp.any(jnp.abs(u) > _ROUNDING) for u in jax.tree.leaves(moved)]
        return sum(products, jnp.zeros(())), jnp.any(jnp.asarray(moves)), state

    # As a stack of one block, 2 x 2, it can be a part within `blocked`; its name says so.
    gradient = {"2x2": jax.ShapeDtypeStruct((1, 2, 2), jnp.float32)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = jax.make_jaxpr(lambda g: step(g, begun(g)))(gradient)
            known = not any(isinstance(x, Tracer) for x in traced.consts) and (costly or not _is_costly(traced.jaxpr))
            if not known:
                return 0, ""
            with jax.ensure_compile_time_eval():
                given = {"2x2": jnp.asarray([[[1.0, 2.0], [3.0, 5.0]]], jnp.float32)}
                # Operation by operation: XLA has compiled most of them before.
                state, product = begun(given), 0.0
                for _ in range(_STEPS):  # a schedule may begin at 0, and gradients may be gathered
                    product, moves, state = step(given, state)
                    if moves:
                        break
                product = float(product)
    except _NoUpdateError as why:
        return 0, str(why)
    except Exception:  # whatever it needs beyond a gradient, its sign is not known
        return 0, ""
    return (product > 0) - (product < 0), ""


def _is_costly(jaxpr: Any) -> bool:
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _COSTLY or eqn.primitive.name.endswith(("callback", "ffi_call")):
            return True
        inside = [x for value in eqn.params.values() for x in (value if isinstance(value, tuple | list) else [value])]
        if any(_is_costly(getattr(x, "jaxpr", x)) for x in inside if hasattr(getattr(x, "jaxpr", x), "eqns")):
            return True
    return False


def as_direction(
    tx: optax.GradientTransformation, like: optax.GradientTransformation | None = None
) -> optax.GradientTransformationExtraArgs:
    """Mark a transformation as a direction, so that `sign_of` need not look.

    Args:
      tx: any transformation.
      like: the transformation whose sign it has, where that is known; None for a direction.

    Examples:
      >>> (
      ...     sign_of(as_direction(optax.identity())),
      ...     sign_of(as_direction(optax.identity(), like=as_direction(optax.sgd(0.1)))),
      ... )
      (1, 1)
    """
    known = 1 if like is None else getattr(like, "sign", 0)
    return Described(*optax.with_extra_args_support(tx), getattr(tx, "text", ""), known)


def check_direction(tx: optax.GradientTransformation, **parts: Any) -> optax.GradientTransformationExtraArgs:
    """Return the transformation, whose `init` refuses parts that go against the gradient.

    Args:
      tx: made of the parts; it multiplies what they give by minus a learning rate, or leaves this to the user.
      **parts: by the names of their arguments; those that are None are left out.

    Raises:
      ValueError: in `init`, for a part that is a whole optimizer.
      TypeError: in `init`, for a part that does not give updates.

    Examples:
      >>> tx = check_direction(optax.identity(), otherwise=optax.adamw(1e-3))
      >>> tx.init(jnp.ones(2))
      Traceback (most recent call last):
      ...
      ValueError: otherwise= goes against the gradient, as a whole optimizer does, and a direction belongs here. ...
    """

    def check(name: str, part: optax.GradientTransformation) -> None:
        if sign_of(part) < 0:
            raise ValueError(
                f"{name}= goes against the gradient, as a whole optimizer does, and a direction belongs here. "
                f"{_INSTEAD}"
            )

    return _checking(tx, parts, check)


def check_optimizer(tx: optax.GradientTransformation, **parts: Any) -> optax.GradientTransformationExtraArgs:
    """Return the transformation, whose `init` refuses parts that go along the gradient.

    Args:
      tx: made of the parts, which it takes for whole optimizers.
      **parts: by the names of their arguments; those that are None are left out.

    Raises:
      ValueError: in `init`, for a part that is a direction.
      TypeError: in `init`, for a part that does not give updates.

    Examples:
      >>> tx = check_optimizer(optax.identity(), optimizer=optax.scale_by_adam())
      >>> tx.init(jnp.ones(2))
      Traceback (most recent call last):
      ...
      ValueError: optimizer= goes along the gradient, as a direction does, and a whole optimizer belongs here, ...
    """

    def check(name: str, part: optax.GradientTransformation) -> None:
        if sign_of(part) > 0:
            raise ValueError(
                f"{name}= goes along the gradient, as a direction does, and a whole optimizer belongs here, which ends "
                f"with a negative learning rate: optax.adamw(..), precond.shampoo(..), or a chain of the direction and "
                f"optax.scale_by_learning_rate(..)."
            )

    return _checking(tx, parts, check)


def _checking(
    tx: optax.GradientTransformation,
    parts: Mapping[str, Any],
    check: Callable[[str, optax.GradientTransformation], None],
) -> optax.GradientTransformationExtraArgs:
    """Return the transformation, whose `init` checks its parts first."""
    given = {name: part for name, part in parts.items() if part is not None}
    tx = optax.with_extra_args_support(tx)
    if not given:
        return tx

    def init(params: Any) -> Any:
        for name, part in given.items():
            _check_update(name, part, params)
            check(name, part)
        return tx.init(params)

    return Described(init, tx.update, sign=getattr(tx, "sign", 0))


_INSTEAD = (
    "Write optax.scale_by_adam() for optax.adam(..) or optax.adamw(..), and optax.identity() for optax.sgd(..). Any "
    "other optimizer becomes a direction as optax.chain(optimizer(1.0), optax.scale(-1.0))."
)


def refuse_optimizers(name: str, tx: optax.GradientTransformation) -> None:
    """Raise if a transformation is a whole optimizer of this library, or a `precond.blocked`.

    Args:
      name: of the argument.
      tx: any transformation.

    Raises:
      ValueError: saying what to write instead.

    Examples:
      >>> import precond
      >>> refuse_optimizers("inner", precond.soap(1e-3))
      Traceback (most recent call last):
      ...
      ValueError: inner=precond.soap(0.001) cuts parameters into blocks itself, and sees none here: ...
    """
    if isinstance(tx, Described) and (tx.sign < 0 or tx.text.startswith("precond.blocked(")):
        raise ValueError(
            f"{name}={tx!r} cuts parameters into blocks itself, and sees none here: use it alone, or give the "
            f"part of it that belongs on stacks, such as precond.scale_by_kronecker(precond.outer_products(), "
            f"precond.inverse_root())."
        )


def check_signs(parts: Mapping[str, optax.GradientTransformation], tree: Any = None) -> None:
    """Raise if one of two transformations goes along the gradient and the other one against it.

    If both are whole optimizers, or both are directions, there is nothing wrong. What is not known is accepted, but
    that a second look is taken at the first one, however costly, where the other goes against the gradient.

    Args:
      parts: two by the names of their arguments.
      tree: of parameters or stacks that both will see, where that is known.

    Raises:
      ValueError: naming the one that goes against the gradient.
      TypeError: for one that does not give updates.

    Examples:
      >>> check_signs({"inner": optax.sgd(0.1), "otherwise": optax.adam(1e-3)})
      >>> check_signs({"inner": optax.scale_by_rms(), "otherwise": optax.adam(1e-3)})
      Traceback (most recent call last):
      ...
      ValueError: otherwise= goes against the gradient, as a whole optimizer does, and inner= goes along it. ...
    """
    for name, tx in parts.items():
        _check_update(name, tx, tree)
    found = {name: sign_of(tx) for name, tx in parts.items()}
    if min(found.values()) < 0:
        found = {name: known or sign_of(parts[name], costly=True) for name, known in found.items()}
    if {1, -1} <= set(found.values()):
        (against,) = (name for name, known in found.items() if known < 0)
        (along,) = (name for name, known in found.items() if known > 0)
        raise ValueError(
            f"{against}= goes against the gradient, as a whole optimizer does, and {along}= goes along it. Give two "
            f"directions, and the learning rate behind them. {_INSTEAD}"
        )

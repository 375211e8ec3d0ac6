"""Check that a part goes along the gradient where a direction belongs, and against it where an optimizer does."""

import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import optax

from precond.arguments.described import Described
from precond.arguments.shown import shown
from precond.arguments.sign_of import SignTrial, try_sign, why_it_fails

__all__ = ["as_direction", "check_direction", "check_optimizer", "check_signs", "refuse_optimizers"]


def as_direction(
    tx: optax.GradientTransformation, like: optax.GradientTransformation | None = None
) -> optax.GradientTransformationExtraArgs:
    """Mark a transformation as a direction, so that `sign_of` need not look.

    Args:
      tx: a transformation.
      like: the transformation whose sign it has, where that is known; None for a direction.

    Examples:
      >>> from precond.arguments import sign_of
      >>> (
      ...     sign_of(as_direction(optax.identity())),
      ...     sign_of(as_direction(optax.identity(), like=as_direction(optax.sgd(0.1)))),
      ... )
      (1, 1)
    """
    known = 1 if like is None else getattr(like, "sign", 0)
    return Described(*optax.with_extra_args_support(tx), getattr(tx, "text", ""), known)


def check_direction(
    tx: optax.GradientTransformation, *, on_stacks: Mapping[str, Any] | None = None, **parts: Any
) -> optax.GradientTransformationExtraArgs:
    """Return the transformation, whose `init` refuses parts that go against the gradient.

    Args:
      tx: made of the parts; it multiplies what they give by minus a learning rate, or leaves this to the user.
      on_stacks: the parts that see stacks of blocks where `tx` sees parameters, by the names of their arguments.
      **parts: those that see what `tx` sees, by the names of their arguments; those that are None are left out.

    Raises:
      ValueError: in `init`, for a part that is a whole optimizer.
      TypeError: in `init`, for a part that does not give updates, or fails.

    Examples:
      >>> tx = check_direction(optax.identity(), otherwise=optax.adamw(1e-3))
      >>> tx.init({"bias": 1.0})
      Traceback (most recent call last):
      ...
      ValueError: otherwise= goes against the gradient, as a whole optimizer does, and a direction belongs here. ...
    """

    def check(name: str, trial: SignTrial) -> None:
        if trial.sign < 0:
            raise ValueError(
                f"{name}= goes against the gradient, as a whole optimizer does, and a direction belongs here. "
                f"{_INSTEAD}"
            )

    return _checking(tx, parts, check, "direction", on_stacks or {})


def check_optimizer(tx: optax.GradientTransformation, **parts: Any) -> optax.GradientTransformationExtraArgs:
    """Return the transformation, whose `init` refuses parts that go along the gradient.

    Args:
      tx: made of the parts, which it takes for whole optimizers.
      **parts: the parts, by the names of their arguments; those that are None are left out.

    Raises:
      ValueError: in `init`, for a part that is a direction.
      TypeError: in `init`, for a part that does not give updates.

    Examples:
      >>> tx = check_optimizer(optax.identity(), optimizer=optax.scale_by_adam())
      >>> tx.init({"bias": 1.0})
      Traceback (most recent call last):
      ...
      ValueError: optimizer= goes along the gradient, as a direction does, and a whole optimizer belongs here, ...
    """

    def check(name: str, trial: SignTrial) -> None:
        if trial.sign > 0:
            raise ValueError(
                f"{name}= goes along the gradient, as a direction does, and a whole optimizer belongs here, which ends "
                f"with a negative learning rate: optax.adamw(..), precond.shampoo(..), or a chain of the direction and "
                f"optax.scale_by_learning_rate(..)."
            )

    return _checking(tx, parts, check, "whole optimizer")


def _checking(
    tx: optax.GradientTransformation,
    parts: Mapping[str, Any],
    check: Callable[[str, SignTrial], None],
    wanted: str,
    on_stacks: Mapping[str, Any] = types.MappingProxyType({}),
) -> optax.GradientTransformationExtraArgs:
    """Return the transformation, whose `init` checks its parts first."""
    given, of_stacks = ({name: x for name, x in some.items() if x is not None} for some in (parts, on_stacks))
    tx = optax.with_extra_args_support(tx)
    if not given and not of_stacks:
        return tx

    def init(params: optax.Params) -> optax.OptState:
        for name, part in of_stacks.items():
            check(name, _tried(name, part, None, wanted, costly=True))
        for name, part in given.items():
            check(name, _tried(name, part, params, wanted, costly=True))
        return tx.init(params)

    return Described(init, tx.update, sign=getattr(tx, "sign", 0))


def _tried(
    name: str, tx: optax.GradientTransformation, tree: optax.Params | None, wanted: str, *, costly: bool = False
) -> SignTrial:
    """Try a part; raise if it does not give updates, and warn if it could not be tried."""
    trial = try_sign(tx, tree, costly=costly)
    if not trial.wrong and (not trial.failed or trial.lacks):
        return trial
    fails = why_it_fails(tx, tree) if tree is not None else trial.failed
    if trial.wrong and (tree is None or fails):
        raise TypeError(f"{name}= has an update that {trial.wrong}.")
    if tree is not None and fails:
        raise TypeError(
            f"{name}= fails on what it sees here, {shown(tree)} ({fails}). Give a part that takes this: its masks and "
            f"labels must fit."
        )
    if trial.failed and tree is not None:
        warnings.warn(
            f"{name}= could not be tried on a small gradient ({trial.failed}), so it is unknown whether it goes "
            f"along the gradient or against it. A {wanted} belongs here.",
            stacklevel=2,
        )
    return trial


_INSTEAD = (
    "Write optax.scale_by_adam() for optax.adam(..) or optax.adamw(..), and optax.identity() for optax.sgd(..). Any "
    "other optimizer becomes a direction as optax.chain(optimizer(1.0), optax.scale(-1.0))."
)


def refuse_optimizers(name: str, tx: optax.GradientTransformation) -> None:
    """Raise if a transformation is a whole optimizer of this library, or a `precond.blocked`.

    Args:
      name: the name of the argument.
      tx: a transformation.

    Raises:
      ValueError: saying what to write instead.

    Examples:
      >>> import precond
      >>> refuse_optimizers("inner", precond.soap(1e-3))
      Traceback (most recent call last):
      ...
      ValueError: inner=precond.soap(0.001) cuts parameters into blocks itself, and sees none here: ...
    """
    if isinstance(tx, Described) and (tx.sign < 0 or tx.maker == "precond.blocked"):
        raise ValueError(
            f"{name}={tx!r} cuts parameters into blocks itself, and sees none here: use it alone, or give the "
            f"part of it that belongs on stacks, such as precond.scale_by_kronecker(precond.outer_products(), "
            f"precond.inverse_root())."
        )


def check_signs(parts: Mapping[str, optax.GradientTransformation], trees: Mapping[str, Any] | None = None) -> None:
    """Raise if one of two transformations goes along the gradient and the other one against it.

    If both are whole optimizers, or both are directions, all is well. A part whose sign is not known is
    accepted. But if the other part goes against the gradient, the first one is tried again at any cost.

    Args:
      parts: two by the names of their arguments.
      trees: the trees of parameters or stacks that each part will see, by the same names, if they are known.

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
    seen, wanted = trees or {}, "part that goes the same way as the other one"
    signs = {name: _tried(name, tx, seen.get(name), wanted).sign for name, tx in parts.items()}
    if min(signs.values()) < 0:
        signs = {name: sign or try_sign(parts[name], seen.get(name), costly=True).sign for name, sign in signs.items()}
    if {1, -1} <= set(signs.values()):
        (against,) = (name for name, sign in signs.items() if sign < 0)
        (along,) = (name for name, sign in signs.items() if sign > 0)
        raise ValueError(
            f"{against}= goes against the gradient, as a whole optimizer does, and {along}= goes along it. Give two "
            f"directions, and the learning rate behind them. {_INSTEAD}"
        )

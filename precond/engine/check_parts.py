"""Check what the statistics and roots of a user give against what the engine needs."""

from typing import Any

import jax
import jax.numpy as jnp

from precond.arguments import shown
from precond.roots import RootState

__all__ = ["check_factors", "check_like", "check_root_state"]


def check_factors(stack: Any, factors: Any) -> None:
    """Raise unless statistics give a stack a tuple with an entry for each axis of its blocks.

    Raises:
      TypeError: saying what they gave.

    Examples:
      >>> check_factors(jnp.ones((1, 4, 3)), jnp.ones((1, 4, 3)))
      Traceback (most recent call last):
      TypeError: statistics= gave an array of shape (1, 4, 3) and float32 for a stack of shape (1, 4, 3): must ...
    """
    if type(factors) is not tuple or len(factors) != len(stack.shape) - 1:
        raise TypeError(
            f"statistics= gave {shown(factors)} for a stack of shape {tuple(stack.shape)}: must give a tuple with a "
            f"factor, or None, for each axis of a block, as precond.outer_products() does."
        )
    for axis, factor in enumerate(factors):
        n, d = stack.shape[0], stack.shape[axis + 1]
        if factor is None:
            continue
        if tuple(factor.shape) not in ((n, d, d), (n, d)):
            raise TypeError(
                f"statistics= gave a factor of shape {tuple(factor.shape)} for axis {axis} of a stack of shape "
                f"{tuple(stack.shape)}: must give {(n, d, d)}, or {(n, d)} for the diagonals of diagonal factors."
            )
        if factor.dtype not in (jnp.float32, jnp.float64):
            raise TypeError(
                f"statistics= gave a factor of {factor.dtype} for axis {axis} of a stack: must be float32 or float64, "
                "in which roots are computed."
            )


def check_root_state(state: Any, factors: tuple[Any, ...]) -> None:
    """Raise unless a root's `init` gives a `precond.RootState` with an entry for each factor.

    Raises:
      TypeError: saying what it gave.

    Examples:
      >>> check_root_state(None, (None, None))
      Traceback (most recent call last):
      TypeError: root.init gave None: must give a precond.RootState with an entry in `derived` for each of 2 factors.
    """
    if not isinstance(state, RootState) or len(state.derived) != len(factors):
        raise TypeError(
            f"root.init gave {shown(state)}: must give a precond.RootState with an entry in `derived` for each of "
            f"{len(factors)} factors."
        )


def check_like(what: str, made: Any, like: Any) -> None:
    """Raise unless a part gave a tree of the expected structure, shapes and dtypes.

    Raises:
      TypeError: saying what it gave.

    Examples:
      >>> check_like("root.apply", None, (1.0, 2.0))
      Traceback (most recent call last):
      TypeError: root.apply gave None: must give a tree of the structure, the shapes and the dtypes of (1.0, 2.0).
    """
    trees = [(jax.tree.structure(x), [_type(leaf) for leaf in jax.tree.leaves(x)]) for x in (made, like)]
    if trees[0] != trees[1]:
        raise TypeError(
            f"{what} gave {shown(made)}: must give a tree of the structure, the shapes and the dtypes of {shown(like)}."
        )


def _type(x: Any) -> tuple[tuple[int, ...], Any]:
    return jnp.shape(x), jnp.result_type(x)

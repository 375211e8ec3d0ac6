"""Give the states of Optax transformations types that a checker reads. This is floor 0 of the library."""

import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

import jax
import optax

__all__ = ["Init", "Update", "transformation"]

State = TypeVar("State")
StateMade = TypeVar("StateMade", covariant=True)


class Init(Protocol[StateMade]):
    """Make the first state: the type of a transformation's `init`."""

    def __call__(self, params: optax.Params) -> StateMade:
        """Make the state for these parameters.

        Args:
          params: a tree of arrays.
        """
        ...


class Update(Protocol[State]):
    """Transform updates, with a state of its own type: the type of a transformation's `update`."""

    def __call__(
        self, updates: optax.Updates, state: State, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, State]:
        """Transform the updates of one step.

        Args:
          updates: a tree of gradients, or what a transformation before made of them.
          state: the result of `init`, or the state that the last update returned.
          params: the parameters; None if the caller has none to give.
          **extra: the extra arguments of the caller; a transformation names those that it reads.

        Returns:
          The updates and the next state.
        """
        ...


def transformation(init: Init[State], update: Update[State]) -> optax.GradientTransformationExtraArgs:
    """Make an Optax transformation from two functions that agree on the type of the state.

    `optax.GradientTransformationExtraArgs` itself takes an update of any tree of arrays alone, so that a state must be
    `Any` and a misspelled field is found by nobody. Here a checker finds it.

    Both functions run with JAX's usual rules of broadcasting and of dtypes. So a program can forbid them for its own
    arrays, by `jax_numpy_rank_promotion="raise"` or `jax_numpy_dtype_promotion="strict"`.

    Args:
      init: a function from parameters to a state.
      update: a function from updates and this state to updates and the next state.

    Examples:
      >>> import jax
      >>> from typing import NamedTuple
      >>> class Count(NamedTuple):
      ...     count: int
      >>> def update(updates, state: Count, params=None, **extra):
      ...     return updates, Count(state.count + 1)
      >>> tx = transformation(lambda params: Count(0), update)
      >>> tx.update(1.0, tx.init(1.0))
      (1.0, Count(count=1))
    """
    return optax.GradientTransformationExtraArgs(
        cast(optax.TransformInitFn, _by_usual_rules(init)),
        cast(optax.TransformUpdateExtraArgsFn, _by_usual_rules(update)),
    )


def _by_usual_rules(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return run

"""Whether a function from parameters to outputs uses the taps of a capture as K-FAC needs it."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax

__all__ = ["check_tapped", "note_backward", "note_tap", "watch_taps"]


class _Watch:
    """The number of taps that were called."""

    def __init__(self) -> None:
        self.taps = 0


_WATCH: contextvars.ContextVar[_Watch | None] = contextvars.ContextVar("watch", default=None)

_DERIVATIVE = (
    "forward= differentiates the model with its taps, as in a loss with derivatives by the input. Factors would be "
    "those of the outputs alone, far from the curvature. Take that derivative of the model without taps, "
    "model.apply({'params': capture.detach(params)}, x): its part of the loss then has gradients, and no factors."
)


@contextlib.contextmanager
def watch_taps() -> Iterator[_Watch]:
    """Count the taps that are called while it lasts, and refuse a derivative that is taken of one meanwhile.

    Raises:
      ValueError: if a model with taps is differentiated before its outputs are there.

    Examples:
      >>> with watch_taps() as watch:
      ...     note_tap()
      >>> watch.taps
      1
    """
    watch = _Watch()
    token = _WATCH.set(watch)
    try:
        yield watch
    except (TypeError, NotImplementedError) as error:
        if "custom_vjp" in str(error) or "custom_lin" in str(error):  # forward mode
            raise ValueError(_DERIVATIVE) from error
        raise
    finally:
        _WATCH.reset(token)


def note_tap() -> None:
    """Tell who watches that a tap was called.

    Examples:
      >>> note_tap()  # nobody watches
    """
    if (watch := _WATCH.get()) is not None:
        watch.taps += 1


def note_backward() -> None:
    """Tell who watches that the derivative of a tap is taken.

    Raises:
      ValueError: if it is taken while the outputs are still being computed.

    Examples:
      >>> note_backward()  # nobody watches
    """
    if _WATCH.get() is not None:
        raise ValueError(_DERIVATIVE)


def check_tapped(taps: int, function: Callable[..., Any], *args: Any) -> None:
    """Raise if a function calls no tap.

    A function that JAX has traced before calls none while it is traced again: its program then has them.

    Args:
      taps: the number that were called when the function was traced.
      function: of parameters with probes.
      *args: of the function.

    Raises:
      ValueError: saying what to call.

    Examples:
      >>> check_tapped(1, lambda params: params, 1.0)
      >>> check_tapped(0, lambda params: params, 1.0)
      Traceback (most recent call last):
      ...
      ValueError: forward= calls no layer of the capture, so that there are no factors: call capture.apply(..) in ...
    """
    if taps or _has_taps(jax.make_jaxpr(function)(*args).jaxpr):
        return
    raise ValueError(
        "forward= calls no layer of the capture, so that there are no factors: call capture.apply(..) in place of "
        "model.apply(..) or model(..), with the parameters that forward= is given."
    )


def _has_taps(jaxpr: Any) -> bool:
    """Return whether a program may have taps in it: each is a function with a derivative of its own."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name.startswith("custom_vjp"):
            return True
        inside = [x for value in eqn.params.values() for x in (value if isinstance(value, tuple | list) else [value])]
        if any(_has_taps(getattr(x, "jaxpr", x)) for x in inside if hasattr(getattr(x, "jaxpr", x), "eqns")):
            return True
    return False

"""Check whether a function from parameters to outputs uses the taps of a capture as K-FAC needs it."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax

from precond.blocks import Layer, Probe, leaves_of
from precond.trees import Tree

__all__ = ["check_tapped", "note_backward", "note_tap", "refuse_derivative", "refuse_forward_mode", "watch_taps"]


class _Watch:
    """Hold the taps that were called."""

    def __init__(self) -> None:
        self.taps: list[object] = []

    def called(self, tap: object) -> bool:
        return any(tap is x for x in self.taps)


_WATCH: contextvars.ContextVar[_Watch | None] = contextvars.ContextVar("watch", default=None)

_DERIVATIVE = (
    "The loss has a derivative of the model with its taps, such as a derivative by the input. The factors would miss "
    "this part of the loss, and be far from its curvature. Take that derivative of the model without taps, "
    "model.apply({'params': capture.detach(params)}, x): its part of the loss then has gradients, and no factors."
)


@contextlib.contextmanager
def watch_taps() -> Iterator[_Watch]:
    """Note the taps that are called in a `with` block, and refuse a derivative of a tap within it.

    Raises:
      ValueError: if a model with taps is differentiated before its outputs are there.

    Examples:
      >>> with watch_taps() as watch:
      ...     note_tap("first")
      >>> watch.called("first"), watch.called("second")
      (True, False)
    """
    watch = _Watch()
    token = _WATCH.set(watch)
    try:
        with refuse_forward_mode():
            yield watch
    finally:
        _WATCH.reset(token)


@contextlib.contextmanager
def refuse_forward_mode() -> Iterator[None]:
    """Say what to write instead where JAX refuses the derivative of a tap in forward mode.

    Raises:
      ValueError: for `jax.jvp`, `jax.jacfwd` and the like in the `with` block.

    Examples:
      >>> with refuse_forward_mode():
      ...     two = 1 + 1
    """
    try:
        yield
    except (TypeError, NotImplementedError) as error:
        if "custom_vjp" in str(error) or "custom_lin" in str(error):
            raise ValueError(_DERIVATIVE) from error
        raise


def note_tap(tap: object) -> None:
    """Tell who watches that a tap was called.

    Args:
      tap: the tap itself, which is known by its identity.

    Examples:
      >>> note_tap("first")  # nobody watches
    """
    if (watch := _WATCH.get()) is not None:
        watch.taps.append(tap)


def note_backward() -> None:
    """Tell who watches that the derivative of a tap is taken.

    Raises:
      ValueError: if it is taken while the outputs are still being computed.

    Examples:
      >>> note_backward()  # nobody watches
    """
    if _WATCH.get() is not None:
        refuse_derivative()


def refuse_derivative() -> NoReturn:
    """Raise for a derivative of a model with taps that is differentiated once more.

    Raises:
      ValueError: always, with what to write instead.

    Examples:
      >>> refuse_derivative()
      Traceback (most recent call last):
      ValueError: The loss has a derivative of the model with its taps, such as a derivative by the input. ...
    """
    raise ValueError(_DERIVATIVE)


def check_tapped(
    layers: Mapping[str, Layer],
    function: Callable[[Tree, Mapping[str, Probe]], Any],
    params: Tree,
    probes: Mapping[str, Probe],
) -> None:
    """Raise if a function calls no layer by its tap, or uses the weights of some without.

    The program tells: a layer that was called by its tap reads its probe. A layer that is not called at all is allowed;
    its gradient is zero.

    Args:
      layers: those that nobody has seen called by their taps. A function that JAX has traced before calls none while it
        is traced again.
      function: a function of parameters and probes.
      params: the parameters.
      probes: the probes of all layers.

    Raises:
      ValueError: naming the layers, and what to call.

    Examples:
      >>> params, layer = {"kernel": 1.0}, Layer("kernel", None, 0, (1, 1), (), (0,), (1,))
      >>> check_tapped(
      ...     {"": layer},
      ...     lambda params, probes: probes[""].sums,
      ...     params,
      ...     {"": Probe(layer, {"rows": 1.0})},
      ... )
      >>> check_tapped(
      ...     {"": layer},
      ...     lambda params, probes: params,
      ...     params,
      ...     {"": Probe(layer, {"rows": 1.0})},
      ... )
      Traceback (most recent call last):
      ...
      ValueError: forward= calls no layer of the capture, so that there are no factors: call capture.apply(..) in ...
    """
    jaxpr = jax.make_jaxpr(function)(params, probes).jaxpr
    marks, read = iter(_read(jaxpr)), jax.tree.structure((params, probes))
    used_params, used_probes = read.unflatten(marks)
    call = "call capture.apply(..) in place of model.apply(..) or model(..)"
    seen = [name for name, probe in used_probes.items() if any(jax.tree.leaves(probe.sums))]
    if not seen:
        raise ValueError(
            f"forward= calls no layer of the capture, so that there are no factors: {call}, with the parameters that "
            f"forward= is given."
        )
    used = leaves_of(used_params)
    if untapped := [name for name, layer in layers.items() if used[layer.kernel] and name not in seen]:
        raise ValueError(
            f"forward= uses the weights of the layers {', '.join(map(repr, untapped))} of the capture without calling "
            f"their taps, so that these have no factors: {call} for all of the model, or leave them out of the capture."
        )


def _read(jaxpr: Any) -> list[bool]:
    """Return for each input of a program whether something reads it."""
    read = {id(x) for x in jaxpr.outvars}
    for eqn in jaxpr.eqns:
        read |= {id(x) for x, used in zip(eqn.invars, _operands_read(eqn), strict=True) if used}
    return [id(x) in read for x in jaxpr.invars]


def _operands_read(eqn: Any) -> list[bool]:
    """Return for each operand whether an operation reads it: for one that calls a program, whether this does."""
    whole = [True] * len(eqn.invars)
    if eqn.primitive.name.startswith("custom_"):  # a tap reads its probe in the backward pass
        return whole
    given = [x for value in eqn.params.values() for x in (value if isinstance(value, tuple | list) else [value])]
    inside = [_read(j) for x in given if hasattr(j := getattr(x, "jaxpr", x), "eqns")]
    if eqn.primitive.name == "cond":
        return [True, *map(any, zip(*inside, strict=True))]
    return inside[0] if len(inside) == 1 and len(inside[0]) == len(whole) else whole

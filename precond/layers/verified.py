"""Make a capture of the layers that pass the self-check."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from precond.arguments import check_known
from precond.blocks import leaves_of
from precond.layers.assemble import STACKED_ELSEWHERE, Bind, LayerSpec, assemble, choices
from precond.layers.capture import Capture
from precond.layers.check_patterns import check_patterns
from precond.layers.coverage import Uncovered, check_covered
from precond.layers.gradient_errors import gradient_errors
from precond.layers.sharing import Sharing
from precond.trees import Tree

__all__ = ["verified"]


def verified(
    specs: Mapping[str, LayerSpec],
    reasons: Mapping[str, str],
    params: Tree,
    bind: Bind,
    run: Callable[[Capture, Tree], Tree],
    *,
    given: Mapping[str, Tree],
    tolerance: float | None,
    allow_uncovered: Uncovered,
    sharing: Sharing | Sequence[tuple[str, Sharing]],
    batch: int,
) -> Capture:
    """Return a capture of the found layers that pass the self-check.

    Args:
      specs: the specs of the layers, by path, as in `precond.layers.assemble`.
      reasons: why the modules at other paths are not tapped.
      params: the model's parameters.
      bind: a function from the taps by path to the `apply` of the capture.
      run: a function from a capture and parameters with probes to the outputs.
      given: the trees whose numbers the self-check reads, by the names of the user's arguments.
      tolerance: a layer with a larger error has no factors, and the error is the reason. None does not check.
      allow_uncovered: paths of parameters that may have no factors.
      sharing: one sharing rule, or pairs of a regular expression and a rule.
      batch: how many leading axes number the examples.

    Raises:
      ValueError: if a parameter has no factors and is not in `allow_uncovered`.
      TypeError: if something in `given` has no numbers, and the tolerance is not None.
    """
    check_patterns("allow_uncovered", allow_uncovered, leaves_of(params))

    def make(specs: Mapping[str, LayerSpec], reasons: Mapping[str, str]) -> Capture:
        return assemble(specs, reasons, params, bind, sharing=sharing, batch=batch)

    made = make(specs, reasons)
    if tolerance is not None and made.layers:
        check_known("capture", " With tolerance=None it checks nothing, and takes shapes.", **given)
        ways = {path: choices(path, specs[path], params) for path in made.layers}
        attempts = [{path: x._replace(choice=i) for path, x in specs.items()} for i in range(max(ways.values()))]
        known = {path: x for path, x in specs.items() if ways.get(path, 0) < 2}
        tried = _first_that_fits(
            [*attempts, known] if len(known) < len(specs) else attempts, make, run, params, reasons
        )
        reasons = {**reasons, **dict.fromkeys(specs.keys() - tried.specs.keys(), STACKED_ELSEWHERE)}
        lost = {
            path: f"its signals miss {error:.0%} of its gradient (weights tied, changed, or masked?)"
            for path, error in tried.errors.items()
            if not error <= tolerance
        }
        kept = {path: layer for path, layer in tried.specs.items() if path not in lost}
        made = make(kept, {**reasons, **lost})
    check_covered(made.coverage, allow_uncovered)
    return made


class _Tried(NamedTuple):
    """Hold layers as they were found, and the errors of their signals."""

    specs: Mapping[str, LayerSpec]
    errors: Mapping[str, float]


def _first_that_fits(
    attempts: Sequence[Mapping[str, LayerSpec]],
    make: Callable[[Mapping[str, LayerSpec], Mapping[str, str]], Capture],
    run: Callable[[Capture, Tree], Tree],
    params: Tree,
    reasons: Mapping[str, str],
) -> _Tried:
    """Return the first attempt whose probes fit where the model's loops slice them."""
    for i, specs in enumerate(attempts):
        made = make(specs, reasons)
        try:
            return _Tried(specs, gradient_errors(made, params, lambda params, made=made: run(made, params)))
        except (IndexError, TypeError, ValueError):
            if i == len(attempts) - 1:
                raise
    raise AssertionError("There is always an attempt.")

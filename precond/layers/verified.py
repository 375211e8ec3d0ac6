"""A capture of the layers that pass the self-check."""

from collections.abc import Callable, Mapping, Sequence

from precond.layers.assemble import STACKED_ELSEWHERE, Bind, Found, assemble, may_be_stacked_elsewhere
from precond.layers.capture import Capture
from precond.layers.check_patterns import check_patterns
from precond.layers.coverage import Uncovered, check_covered
from precond.layers.gradient_errors import gradient_errors
from precond.layers.nested import leaves_of
from precond.layers.sharing import Sharing
from precond.trees import Tree

__all__ = ["verified"]


def verified(
    found: Mapping[str, Found],
    reasons: Mapping[str, str],
    params: Tree,
    bind: Bind,
    run: Callable[[Capture, Tree], Tree],
    *,
    tolerance: float | None,
    allow_uncovered: Uncovered,
    sharing: Sharing | Sequence[tuple[str, Sharing]],
    batch: int,
) -> Capture:
    """Return a capture of the found layers that pass the self-check.

    Args:
      found: by path, as in `precond.layers.assemble`.
      reasons: why the modules at other paths are not tapped.
      params: the model's parameters.
      bind: from the taps by path to the `apply` of the capture.
      run: from a capture and parameters with probes to the outputs.
      tolerance: a layer with a larger error has no factors, and the error is the reason. None does not check.
      allow_uncovered: paths of parameters that may have no factors.
      sharing: one sharing rule, or pairs of a regular expression and a rule.
      batch: how many leading axes number the examples.

    Raises:
      ValueError: if a parameter has no factors and is not in `allow_uncovered`.
    """
    check_patterns("allow_uncovered", allow_uncovered, leaves_of(params))
    made = assemble(found, reasons, params, bind, sharing=sharing, batch=batch)
    if tolerance is not None and made.layers:
        try:
            errors = gradient_errors(made, params, lambda params: run(made, params))
        except (IndexError, TypeError, ValueError):
            # The probes do not fit where they are sliced.
            unclear = {path for path in made.layers if may_be_stacked_elsewhere(path, found[path], params)}
            if not unclear:
                raise
            found = {path: layer for path, layer in found.items() if path not in unclear}
            reasons = {**reasons, **dict.fromkeys(unclear, STACKED_ELSEWHERE)}
            made = assemble(found, reasons, params, bind, sharing=sharing, batch=batch)
            errors = gradient_errors(made, params, lambda params: run(made, params))
        lost = {
            path: f"its signals miss {error:.0%} of its gradient (weights tied, changed, or masked?)"
            for path, error in errors.items()
            if not error <= tolerance
        }
        kept = {path: layer for path, layer in found.items() if path not in lost}
        made = assemble(kept, {**reasons, **lost}, params, bind, sharing=sharing, batch=batch)
    check_covered(made.coverage, allow_uncovered)
    return made

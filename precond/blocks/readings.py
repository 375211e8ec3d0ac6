"""Report how each parameter is read."""

import contextlib
import contextvars
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from precond.blocks.cuts import BlockSize
from precond.blocks.layout import Layout, layout_of
from precond.blocks.mistakes_in_views import in_words, mistakes_in_views
from precond.blocks.parameter import Parameter, parameters_of
from precond.blocks.view import View, Views, geometry

__all__ = ["InitReport", "Reading", "collect_reports", "readings_of", "report_readings"]


class Reading(NamedTuple):
    """Say how one parameter is read.

    Attributes:
      path: the path of the parameter.
      shape: the shape of the parameter.
      view: the view by which it is read; None if it is not preconditioned.
      words: the same in words, `"6 matrices 64 x 128"`; a side in brackets has no factor.
      blocks: the number of blocks of each shape, `{"64x128": 6}`.
    """

    path: str
    shape: tuple[int, ...]
    view: View | None
    words: str
    blocks: dict[str, int]


def readings_of(tree: Any, views: Views, block_size: BlockSize) -> list[Reading]:
    """Return how every parameter of a tree is read, in its order.

    Args:
      tree: a tree of arrays, or of anything with `shape` and `dtype`.
      views: as in `layout_of`.
      block_size: as in `layout_of`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond.blocks.views import default_views
      >>> (row,) = readings_of({"kernel": jnp.zeros((100, 64))}, default_views, 64)
      >>> row.words, row.blocks
      ('matrix 100 x 64', {'50x64': 2})
    """
    parameters = parameters_of(tree)
    leaves = dict(parameters)
    read = {path: views(path, leaf) if leaf.size else None for path, leaf in parameters}
    matrix_of = {view.row: path for path, view in read.items() if view is not None and view.row in leaves}

    def one(path: str, leaf: Parameter) -> Reading:
        shape, view = leaf.shape, read[path]
        if path in matrix_of:
            return Reading(path, shape, read[matrix_of[path]], f"the last row of '{matrix_of[path]}'", {})
        if view is None:
            return Reading(path, shape, None, "not preconditioned", {})
        row = {view.row: leaves[view.row]} if view.row in leaves else {}
        words = in_words(geometry(view, shape, f"'{path}'"), bool(row))
        alone = layout_of({path: leaf, **row}, lambda other, _: view if other == path else None, block_size)
        return Reading(path, shape, view, words, alone.blocks)

    return [one(path, leaf) for path, leaf in parameters]


class InitReport(NamedTuple):
    """Collect what every `init` of `blocked` reports: readings, layouts, meanings of states, and likely mistakes."""

    readings: list[Reading]
    layouts: list[Layout]
    meanings: list[str]
    mistakes: list[str]


_REPORT: contextvars.ContextVar[InitReport | None] = contextvars.ContextVar("report", default=None)


@contextlib.contextmanager
def collect_reports() -> Iterator[InitReport]:
    """Collect how every `init` of `blocked` inside this context reads and cuts its parameters.

    Examples:
      >>> import jax.numpy as jnp
      >>> tree, views = {"kernel": jnp.zeros((4, 6))}, lambda path, leaf: View((0, 1))
      >>> with collect_reports() as report:
      ...     report_readings(tree, views, None, layout_of(tree, views, None))
      >>> report.readings[0].words, list(report.layouts[0].stacks)
      ('matrix 4 x 6', ['4x6'])
    """
    report = InitReport([], [], [], [])
    token = _REPORT.set(report)
    try:
        yield report
    finally:
        _REPORT.reset(token)


def report_readings(tree: Any, views: Views, block_size: BlockSize, layout: Layout, meaning: str = "") -> None:
    """Report how parameters are read to an enclosing `collect_reports`, or warn of likely mistakes.

    Args:
      tree: a tree of parameters, in their boxes if they have some.
      views: as in `layout_of`.
      block_size: as in `layout_of`.
      layout: the layout of this tree.
      meaning: what the numbers of their state mean (`precond.blocks.report_meaning`).

    Examples:
      >>> import jax.numpy as jnp
      >>> tree, views = {"kernel": jnp.zeros((4, 6))}, lambda path, leaf: View((0, 1))
      >>> report_readings(tree, views, None, layout_of(tree, views, None))
    """
    report, mistakes = _REPORT.get(), mistakes_in_views(tree, views, block_size)
    if report is None:
        for mistake in mistakes:
            warnings.warn(mistake, stacklevel=2)
    else:
        report.mistakes.extend(mistakes)
        report.readings.extend(readings_of(tree, views, block_size))
        report.layouts.append(layout)
        report.meanings.append(meaning)

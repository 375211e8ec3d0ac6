"""How each parameter is read, to be printed; and what `init` tells of it to who asks."""

import contextlib
import contextvars
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from precond.blocks.joint import Layer
from precond.blocks.layout import BlockSize, layout_of
from precond.blocks.parameter import parameters_of
from precond.blocks.suspicion import in_words, warn_of_views
from precond.blocks.view import View, Views, geometry

__all__ = ["Reading", "asking", "readings_of", "tell_layers", "tell_readings"]


class Reading(NamedTuple):
    """How one parameter is read.

    Attributes:
      path: of the parameter.
      shape: of the parameter.
      view: how it is read; None where it is not preconditioned.
      words: the same in words, `"6 matrices 64 x 128"`; a side in brackets has no factor.
      blocks: how many blocks there are of each shape, `{"64x128": 6}`.
    """

    path: str
    shape: tuple[int, ...]
    view: View | None
    words: str
    blocks: dict[str, int]


def readings_of(tree: Any, views: Views, block_size: BlockSize) -> list[Reading]:
    """Return how every parameter of a tree is read, in its order.

    Args:
      tree: of arrays, or of anything with `shape` and `dtype`.
      views: as in `layout_of`.
      block_size: as in `layout_of`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond.blocks.views import default_views
      >>> (row,) = readings_of({"kernel": jnp.zeros((100, 64))}, default_views, 64)
      >>> row.words, row.blocks
      ('matrix 100 x 64', {'50x64': 2})
    """
    rows = []
    for path, leaf in parameters_of(tree):
        view = views(path, leaf) if leaf.size else None
        if view is None:
            rows.append(Reading(path, leaf.shape, None, "not preconditioned", {}))
        else:
            words = in_words(geometry(view, leaf.shape, f"'{path}'"))
            blocks = layout_of({path: leaf}, lambda *_, view=view: view, block_size).blocks
            rows.append(Reading(path, leaf.shape, view, words, blocks))
    return rows


_ASKED: contextvars.ContextVar[list[Reading] | None] = contextvars.ContextVar("asked", default=None)


@contextlib.contextmanager
def asking() -> Iterator[list[Reading]]:
    """While it lasts, `init` of `blocked` adds how it reads its parameters to the list.

    Examples:
      >>> import jax.numpy as jnp
      >>> with asking() as rows:
      ...     tell_readings({"kernel": jnp.zeros((4, 6))}, lambda path, leaf: View((0, 1)), None)
      >>> rows[0].words
      'matrix 4 x 6'
    """
    rows: list[Reading] = []
    token = _ASKED.set(rows)
    try:
        yield rows
    finally:
        _ASKED.reset(token)


def tell_readings(tree: Any, views: Views, block_size: BlockSize) -> None:
    """Tell who asks how parameters are read, and warn of readings that nobody means.

    Args:
      tree: of parameters, in their boxes if they have some.
      views: as in `layout_of`.
      block_size: as in `layout_of`.

    Examples:
      >>> import jax.numpy as jnp
      >>> tell_readings({"kernel": jnp.zeros((4, 6))}, lambda path, leaf: View((0, 1)), None)
    """
    rows = _ASKED.get()
    if rows is not None:
        rows += readings_of(tree, views, block_size)
    else:
        warn_of_views(tree, views)


@contextlib.contextmanager
def tell_layers(layers: Mapping[str, Layer], leaves: Mapping[str, Any]) -> Iterator[None]:
    """While it lasts, what is told of layers by name is told of their kernels and biases by path.

    Args:
      layers: that are there, by name.
      leaves: parameters by path.

    Examples:
      >>> with tell_layers({}, {}):
      ...     pass
    """
    rows = _ASKED.get()
    with asking() as by_name:  # whether or not somebody asks: there is nothing to warn of in a layer
        yield
    if rows is None:
        return
    told = {row.path: row for row in by_name}
    for name, layer in layers.items():
        shape = tuple(leaves[layer.kernel].shape)
        words = told[name].words + (", the bias as its last row" if layer.bias else "")
        rows.append(told[name]._replace(path=layer.kernel, shape=shape, words=words))
        if layer.bias:
            bias = tuple(leaves[layer.bias].shape)
            rows.append(Reading(layer.bias, bias, told[name].view, f"the last row of '{layer.kernel}'", {}))

"""Rules that give parameters their views: by Flax's names, by regular expressions, or as plain tensors."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import tree_util

from precond.blocks.view import View, Views

__all__ = ["as_views", "default_views", "path_name", "rules", "small_side", "tensors"]

# A bias of attention is [heads, width]: a name says more than a shape.
_UNVIEWED = ("bias", "scale", "embedding")
_TO_HEADS = ("query", "key", "value", "qkv", "q_proj", "k_proj", "v_proj")


def path_name(path: tuple[Any, ...]) -> str:
    """A key path as `"layers/0/kernel"`, the same for nnx's state at `init` and at `update`, and for linen's boxes.

    Examples:
      >>> path_name((tree_util.DictKey("layers"), tree_util.SequenceKey(0), tree_util.DictKey("kernel")))
      'layers/0/kernel'
    """
    # Flax's Variables and boxes are one level of the tree when they are there: an attribute called value.
    if path and isinstance(path[-1], tree_util.GetAttrKey) and path[-1].name == "value":
        path = path[:-1]
    return tree_util.keystr(path, simple=True, separator="/")


def _matrix(shape: tuple[int, ...], rows: tuple[int, ...], columns: tuple[int, ...]) -> View | None:
    """The two merged axes as a matrix, or None where one of them has length 1: that is a vector."""
    if min(math.prod(shape[i] for i in rows), math.prod(shape[i] for i in columns)) <= 1:
        return None
    return View((rows, columns))


def default_views(path: str, leaf: Any) -> View | None:
    """The views of Flax's layers, by name and shape; what they mean is in the table.

    | parameter | view |
    |---|---|
    | scalars, vectors, complex or integer arrays; `bias`, `scale`, `embedding` of any shape | None |
    | any matrix | rows and columns |
    | `query/kernel`, `key/kernel`, `value/kernel` `[d, heads, width]` | `[d, heads width]` |
    | `out/kernel` `[heads, width, d]` | `[heads width, d]` |
    | other `kernel`s of rank 3 or more (convolutions) `[.., in, out]` | `[.. in, out]` |
    | other arrays of rank 3 or more `[.., m, n]` | a batch of `[m, n]` |

    A matrix with a side of 1 is a vector. Scanned layers cannot be told from convolutions by name: give them a
    rule of their own (`rules`).

    Args:
      path: of the parameter, `"block/mlp/kernel"`.
      leaf: the parameter, or anything with its shape and dtype.

    Examples:
      >>> default_views("block/mlp/kernel", jnp.zeros((4, 8)))
      View(axes=((0,), (1,)), passive=(), shape=None)
      >>> default_views("block/mlp/bias", jnp.zeros(8)) is None
      True
    """
    shape, parts = leaf.shape, path.split("/")
    floating = jnp.issubdtype(leaf.dtype, jnp.floating)
    if not floating or len(shape) < 2 or parts[-1] in _UNVIEWED:
        return None
    last, layer = len(shape) - 1, parts[-2] if len(parts) > 1 else ""
    if len(shape) == 2:
        return _matrix(shape, (0,), (1,))
    if parts[-1] != "kernel":
        return _matrix(shape, (last - 1,), (last,))
    if layer in _TO_HEADS:
        return _matrix(shape, (0,), tuple(range(1, last + 1)))
    return _matrix(shape, tuple(range(last)), (last,))  # convolutions, and the way back from heads


def small_side(path: str, leaf: Any) -> View | None:
    """A matrix preconditioned on its smaller side only, as Anil et al. (2020) treat embeddings.

    Args:
      path: of the parameter.
      leaf: the parameter, or anything with its shape and dtype.

    Examples:
      >>> small_side("embedding", jnp.zeros((5000, 64)))
      View(axes=(0, 1), passive=(0,), shape=None)
    """
    if len(leaf.shape) != 2 or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return None
    return View((0, 1), passive=(0,) if leaf.shape[0] >= leaf.shape[1] else (1,))


def _merged(shape: tuple[int, ...], limit: float) -> tuple[int, ...]:
    """Neighbouring axes merged from the left while their product stays within the limit; ones vanish."""
    merged, product = [], 1
    for d in shape:
        if product * d <= limit:
            product *= d
        else:
            merged += [product] if product > 1 else []
            product = d
    return tuple(merged + ([product] if product > 1 else [])) or (1,)


def _merged_from_right(shape: tuple[int, ...], limit: float, target: int) -> tuple[int, ...]:
    """The same from the right, while more than `target` axes are left."""
    merged = [shape[-1]]
    for done, d in enumerate(shape[-2::-1], start=1):
        if len(merged) + len(shape) - done > target and merged[-1] * d <= limit:
            merged[-1] *= d
        else:
            merged.append(d)
    return tuple(merged[::-1])


def tensors(
    *,
    min_rank: int = 0,
    squeeze: bool = False,
    merge: int | None = 0,
    target: int | None = None,
    max_size: int = 0,
) -> Views:
    """Every parameter as a tensor with one factor an axis, as the reference Shampoos and SOAP read it.

    Args:
      min_rank: parameters of fewer axes get no view.
      squeeze: drop axes of length 1 first (Meta); a scalar is then a vector of 1.
      merge: merge neighbouring axes, from the left, while the product is at most this (Google's
        `best_effort_shape_interpretation`); 0 merges none, and None sets no limit.
      target: merge from the right instead, while more axes than this are left (Meta).
      max_size: an axis longer than this is passive (SOAP's `max_precond_dim`); 0 sets no limit.

    Examples:
      >>> tensors()("w", jnp.zeros((4, 1, 5)))
      View(axes=(0, 1, 2), passive=(), shape=(4, 1, 5))
      >>> tensors(squeeze=True)("w", jnp.zeros((4, 1, 5)))
      View(axes=(0, 1), passive=(), shape=(4, 5))
      >>> tensors(merge=16)("w", jnp.zeros((3, 3, 32, 32)))
      View(axes=(0, 1, 2), passive=(), shape=(9, 32, 32))
    """

    def views(path: str, leaf: Any) -> View | None:
        del path
        shape = leaf.shape
        if squeeze:
            shape = tuple(d for d in shape if d != 1) or (1,)
        limit = math.inf if merge is None else merge
        if target is not None and shape:
            shape = _merged_from_right(shape, limit, target)
        elif limit and shape:
            shape = _merged(shape, limit)
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        passive = tuple(i for i, d in enumerate(shape) if max_size and d > max_size)
        if not floating or not shape or len(leaf.shape) < min_rank or len(passive) == len(shape):
            return None
        return View(tuple(range(len(shape))), passive, shape)

    return views


Rule = View | Mapping[str, Any] | Views | None


def _is_rule(rule: Any) -> bool:
    return rule is None or callable(rule) or isinstance(rule, (View, Mapping))


def _compiled(pair: Any) -> tuple[re.Pattern[str], Rule]:
    """A pattern and its rule, checked as far as they can be without a parameter."""
    if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
        raise TypeError(f"views: {pair!r} must be a (pattern, view) pair.")
    pattern, rule = pair
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(f"views: {pattern!r} is no regular expression: {error}.") from error
    if isinstance(rule, Mapping) and not {"axes"} <= set(rule) <= set(View._fields):
        raise TypeError(f"views: {rule!r} for {pattern!r} must have `axes`, and may have `passive` and `shape`.")
    if not _is_rule(rule):
        raise TypeError(f"views: {rule!r} for {pattern!r} must be a precond.View, its arguments, a function, or None.")
    return compiled, rule


def rules(*pairs: tuple[str, Rule], otherwise: Views = default_views) -> Views:
    """Views by path: the first pattern found in the path decides.

    Args:
      *pairs: of a regular expression, searched in the path, and what it gives: a `View`, its arguments as a
        mapping, a function of path and parameter, or None.
      otherwise: for paths in which no pattern is found.

    Raises:
      ValueError, TypeError: for a pattern that is no regular expression, or a rule of another kind.

    Examples:
      >>> views = rules(("layers/.*kernel", View((1, 2))), ("head", None), ("embedding", small_side))
      >>> views("layers/mlp/kernel", jnp.zeros((12, 4, 8)))
      View(axes=(1, 2), passive=(), shape=None)
      >>> views("embedding", jnp.zeros((100, 4))).passive
      (0,)
    """
    compiled = [_compiled(pair) for pair in pairs]

    def views(path: str, leaf: Any) -> View | None:
        for pattern, rule in compiled:
            if pattern.search(path):
                if callable(rule):
                    return rule(path, leaf)
                return View(**rule) if isinstance(rule, Mapping) else rule
        return otherwise(path, leaf)

    return views


def as_views(views: Views | Sequence[tuple[str, Rule]] | None) -> Views:
    """What a user may give for `views`: a function, a list of pairs for `rules` (as read from JSON), or None.

    Examples:
      >>> as_views([["qkv", {"axes": [0, 2], "shape": [4, 3, 4]}]])("qkv/kernel", jnp.zeros((4, 12)))
      View(axes=[0, 2], passive=(), shape=[4, 3, 4])
    """
    if views is None:
        return default_views
    if callable(views):
        return views
    if isinstance(views, str) or not isinstance(views, Sequence):
        raise TypeError(
            f"views={views!r}: expected a function of path and parameter, a list of (pattern, view) pairs, or None "
            f"for precond.default_views."
        )
    return rules(*views)

"""Read the two matrices of a low-rank pair, as LoRA has them, with a factor on their short side alone."""

from precond.blocks.adapter_of import adapter_of, pair_of
from precond.blocks.parameter import Parameter
from precond.blocks.view import View
from precond.blocks.views.matrices import from_letters

__all__ = ["adapter", "is_adapter"]


def is_adapter(parts: tuple[str, ...], leaf: Parameter) -> bool:
    """Return whether a parameter is an adapter of LoRA by its name, or one of `a` and `b` whose product is larger.

    Args:
      parts: the parts of the parameter's path.
      leaf: the parameter.

    Examples:
      >>> shapes = {"w": (512, 512), "a": (8, 512), "b": (512, 8)}
      >>> [is_adapter((name,), Parameter(shapes[name], "float32", shapes)) for name in shapes]
      [False, True, True]
    """
    if adapter_of(parts):
        return True
    one, other = leaf.shape, _other(parts, leaf)
    if min(len(one), len(other)) < 2 or one[:-2] != other[:-2]:
        return False
    # At an eighth of the shorter side, both together have at most a quarter of the entries of the product, a b or b a.
    sides = min(max(one[-2:]), max(other[-2:]))
    return any(rank <= sides // 8 for rank in _ranks(one, other))


def adapter(parts: tuple[str, ...], leaf: Parameter) -> View | None:
    """Make a view of an adapter: only the side that it shares with the other one of its pair gets a factor.

    If both have the same axes in front of two that share the rank, these axes are a batch: the parts of an einsum.
    Without such a pair, the last axis of `lora_a` is the short side, and the first axis of `lora_b`. All other axes
    are the long side. The short side of a matrix is the shorter one.

    Args:
      parts: the parts of the parameter's path.
      leaf: the parameter.

    Examples:
      >>> adapter(("lora_b",), Parameter((8, 32, 128), "float32"))
      View(axes=((0,), (1, 2)), passive=(1,), shape=None)
      >>> pair = {"lora_a": (2, 64, 8), "lora_b": (2, 8, 128)}
      >>> adapter(("lora_b",), Parameter((2, 8, 128), "float32", pair))
      View(axes=((1,), (2,)), passive=(1,), shape=None)
    """
    shape, other = leaf.shape, _other(parts, leaf)
    more = len(shape) - 1
    if more == 1 or (len(other) > 2 and shape[:-2] == other[:-2] and _ranks(shape, other)):
        short_first, axes = shape[-2] < shape[-1], "b" * (more - 1) + "rc"
    else:
        pair = pair_of(parts)
        short_first = pair is not None and pair[1] == parts
        axes = "r" + "c" * more if short_first else "r" * more + "c"
    view = from_letters(axes, shape)
    return None if view is None else view._replace(passive=(1,) if short_first else (0,))


def _ranks(one: tuple[int, ...], other: tuple[int, ...]) -> list[int]:
    """Return the lengths that the last two axes of both share as the inner axis of a product."""
    return [a for a, b in ((one[-1], other[-2]), (one[-2], other[-1])) if a == b]


def _other(parts: tuple[str, ...], leaf: Parameter) -> tuple[int, ...]:
    """Return the shape of the other one of the pair, or no axes if it is not among the neighbours."""
    pair = pair_of(parts)
    if pair is None:
        return ()
    first, second = pair
    path = second if parts == first else first
    near = path[-1] if path[-1] != parts[-1] else "/".join(("..", *path[-2:]))
    return leaf.neighbours.get(near, ()) if path[-2:] != parts[-2:] else ()

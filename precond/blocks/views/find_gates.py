"""Find the gates of a recurrent cell that are side by side, or one above the other, in one matrix."""

import functools
import re
from collections.abc import Iterator

from precond.blocks.parameter import Parameter

__all__ = ["find_gates", "is_recurrent"]

# What weights of inputs are called, and those of the hidden state of the same cell.
_CELLS = (
    ("i", "h"),
    ("x", "h"),
    ("ih", "hh"),
    ("xh", "hh"),
    ("i2h", "h2h"),
    ("x2h", "h2h"),
    ("input", "hidden"),
    ("input", "recurrent"),
    ("input_to_hidden", "hidden_to_hidden"),
    ("kernel", "recurrent_kernel"),
    ("W", "U"),
)
_MOST = 4


def find_gates(parts: tuple[str, ...], leaf: Parameter) -> tuple[int, int]:
    """Return the axis along which the gates of a cell are, and their number; `(0, 1)` if there are none.

    The weights of the hidden state tell the number: they have as many outputs for each of their inputs. They are known
    by their names, and by weights of inputs with the same outputs: `w_hh` beside `w_ih`, `Wh` beside `Wx`, `hh/kernel`
    beside `ih/kernel`. A `recurrent_kernel` is known by its name.

    Args:
      parts: the parts of the path of the weights.
      leaf: the weights, `[.., inputs, outputs]`, or `[outputs, inputs]` as in PyTorch.

    Examples:
      >>> cell = {"../ih/kernel": (3, 3, 16, 128), "../hh/kernel": (3, 3, 32, 128)}
      >>> find_gates(("ih", "kernel"), Parameter((3, 3, 16, 128), "float32", cell))
      (3, 4)
      >>> cell = {"w_ih": (192, 32), "w_hh": (192, 64)}
      >>> find_gates(("gru", "w_ih"), Parameter((192, 32), "float32", cell))
      (0, 3)
    """
    sides = [(-1, -2), (0, 1)] if leaf.ndim == 2 else [(-1, -2)]  # of the outputs, and of the inputs
    for inputs, hidden in _cells(parts, leaf):
        if len(inputs) == len(hidden) == leaf.ndim >= 2:
            for axis, other in sides:
                count, rest = divmod(hidden[axis], max(hidden[other], 1))
                # Both have the same outputs in every cell; two layers of a perceptron may have the same names.
                if inputs[axis] == hidden[axis] and not rest and 1 < count <= _MOST:
                    return axis % leaf.ndim, count
    return 0, 1


def is_recurrent(parts: tuple[str, ...]) -> bool:
    """Return whether the name says that these are the weights of a hidden state.

    Args:
      parts: the parts of the path of the weights.

    Examples:
      >>> is_recurrent(("slstm", "_recurrent_kernel_")), is_recurrent(("lstm", "kernel"))
      (True, False)
    """
    return re.fullmatch(r"_?recurrent_(kernel|weights?)_?", parts[-1]) is not None


def _cells(parts: tuple[str, ...], leaf: Parameter) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield the shapes of the weights of inputs and of the hidden state in each cell to which these may belong."""
    if is_recurrent(parts):
        yield leaf.shape, leaf.shape
    modules = [(f"../{i}/{parts[-1]}", f"../{h}/{parts[-1]}") for i, h in _pairs(parts[-2])] if parts[1:] else []
    for inputs, hidden in (*_pairs(parts[-1]), *modules):
        if {inputs, hidden} <= leaf.neighbours.keys():
            yield leaf.neighbours[inputs], leaf.neighbours[hidden]


@functools.cache
def _pairs(name: str) -> tuple[tuple[str, str], ...]:
    """Return the names of both weights of each cell of which one has this name: `w_ih` and `w_hh` for `w_hh`."""
    ends = r"(_l\d+.*|_\d+|\d*)"
    found = [(i, h, re.fullmatch(f"(.*?)({kind}){ends}", name)) for i, h in _CELLS for kind in (i, h)]
    return tuple((m[1] + i + m[3], m[1] + h + m[3]) for i, h, m in found if m is not None)

"""Count the gates of a recurrent cell that are side by side in a kernel."""

from precond.blocks.parameter import Parameter

__all__ = ["count_gates"]

# The modules of a cell, of its inputs and of its hidden state: nnx, Linen's convolutional LSTM, Haiku's.
_CELLS = (("dense_i", "dense_h"), ("ih", "hh"), ("input_to_hidden", "hidden_to_hidden"))


def count_gates(parts: tuple[str, ...], leaf: Parameter) -> int:
    """Count the gates of a recurrent cell that are side by side, by the kernel of its hidden state; else return 1.

    Args:
      parts: the parts of the path of the kernel.
      leaf: the kernel, `[.., inputs, outputs]`.

    Examples:
      >>> cell = {"../ih/kernel": (3, 3, 16, 128), "../hh/kernel": (3, 3, 32, 128)}
      >>> count_gates(("ih", "kernel"), Parameter((3, 3, 16, 128), "float32", cell))
      4
    """
    near = leaf.neighbours
    inputs, hidden = leaf.shape, near.get("recurrent_kernel", ())  # Keras
    if "w_h" in near:  # Haiku's GRU
        inputs, hidden = near.get("w_i", ()), near["w_h"]
    for cell in _CELLS:
        if parts[-2:-1] and parts[-2] in cell:
            inputs, hidden = (near.get(f"../{module}/{parts[-1]}", ()) for module in cell)
    # Both have the same outputs in every cell; two layers of a perceptron may have the same names.
    if len(hidden) != leaf.ndim or inputs[-1:] != hidden[-1:] or not hidden[-2]:
        return 1
    count, rest = divmod(hidden[-1], hidden[-2])
    return 1 if rest or count > 4 else count

"""Count the gates of a recurrent cell that are side by side in a kernel."""

from precond.blocks.parameter import Parameter

__all__ = ["count_gates"]

# The modules of a cell, and the one of them whose input is the hidden state: nnx, Linen's convolutional LSTM, Haiku's.
_HIDDEN = {
    **dict.fromkeys(("dense_i", "dense_h"), "dense_h"),
    **dict.fromkeys(("ih", "hh"), "hh"),
    **dict.fromkeys(("input_to_hidden", "hidden_to_hidden"), "hidden_to_hidden"),
}


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
    hidden = leaf.neighbours.get("recurrent_kernel", ())  # Keras
    module = "/".join(parts[-2:-1])
    if module in _HIDDEN:
        hidden = leaf.neighbours.get(f"../{_HIDDEN[module]}/{parts[-1]}", ())
    count, rest = divmod(hidden[-1], hidden[-2]) if len(hidden) == leaf.ndim and hidden[-2] else (1, 0)
    return 1 if rest or leaf.shape[-1] % count or count > 4 else count

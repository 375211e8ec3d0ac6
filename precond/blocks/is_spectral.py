"""Tell from the name of a parameter whether it acts on the modes of a Fourier transform."""

import re

from precond.blocks.parameter import Parameter
from precond.blocks.parameter_names import is_window, module_of

__all__ = ["is_spectral"]

_SPECTRAL = re.compile(r".*(spectral|fourier)(?!.*(norm|feature|embed)).*", re.I)


def is_spectral(parts: tuple[str, ...], leaf: Parameter) -> bool:
    """Return whether the name says that a parameter holds a matrix `[in, out]` for each mode of a Fourier transform.

    Args:
      parts: the parts of the parameter's path.
      leaf: the parameter. A convolution has its window in front, or a bias for each of its last axes.

    Examples:
      >>> [
      ...     is_spectral(("spectral_conv", name), Parameter(shape, "float32"))
      ...     for name, shape in (
      ...         ("real_weights", (32, 32, 12, 12)),
      ...         ("kernel", (3, 3, 32, 64)),
      ...     )
      ... ]
      [True, False]
    """
    named = any(_SPECTRAL.fullmatch(name) for name in (module_of(parts), parts[-1]))
    has_bias = leaf.neighbours.get("bias") in (leaf.shape[-1:], leaf.shape[-2:])
    return named and not has_bias and not is_window(leaf.shape)

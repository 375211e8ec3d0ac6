"""Tell from the name of a parameter whether it acts on the modes of a Fourier transform."""

import re

from precond.blocks.parameter_names import is_window, module_of

__all__ = ["is_spectral"]

_SPECTRAL = re.compile(r".*(spectral|fourier)(?!.*(norm|feature|embed)).*", re.I)


def is_spectral(parts: tuple[str, ...], shape: tuple[int, ...]) -> bool:
    """Return whether the name says that a parameter holds a matrix `[in, out]` for each mode of a Fourier transform.

    Args:
      parts: the parts of the parameter's path.
      shape: the shape of the parameter. A convolution has its window in front.

    Examples:
      >>> (
      ...     is_spectral(("spectral_conv", "real_weights"), (32, 32, 12, 12)),
      ...     is_spectral(("spectral_conv", "kernel"), (3, 3, 32, 64)),
      ... )
      (True, False)
    """
    named = any(_SPECTRAL.fullmatch(name) for name in (module_of(parts), parts[-1]))
    return named and not is_window(shape)

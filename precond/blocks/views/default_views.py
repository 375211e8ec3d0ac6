"""Choose views by the conventions of the library that a parameter's name comes from."""

import re
from typing import Any

from precond.blocks.parameter_names import is_convolution
from precond.blocks.path_name import parts_of
from precond.blocks.view import View
from precond.blocks.views.flax import flax
from precond.blocks.views.haiku import haiku
from precond.blocks.views.torch import torch

__all__ = ["default_views"]

_OF_TORCH = re.compile(r"(.*_)?weight(_.*)?")


def default_views(path: str, leaf: Any) -> View | None:
    """Choose the view of a parameter by its name, its shape, and the shapes of its neighbours.

    A `weight` is read as `precond.views.torch` reads it, a Haiku convolution or recurrent cell as
    `precond.views.haiku` does, and everything else as `precond.views.flax` does.

    | parameter | view |
    |---|---|
    | scalars, vectors, complex or integer arrays; biases, norms, embeddings, logits, `A_log`, `sinks` | None |
    | any other matrix | rows and columns |
    | `query/kernel` and its like `[d, heads, width]`; any kernel beside a bias `[heads, width]` | `[d, heads width]` |
    | `out/kernel` `[heads, width, d]` | `[heads width, d]` |
    | `qkv/kernel` `[d, 3 d]` or `[d, 3, heads, width]`; gates of recurrent cells | 3 matrices; 3 or 4 matrices |
    | other `kernel`s (convolutions) `[h, w, in, out]` | `[h w in, out]` |
    | `weight` `[out, in, h, w]` | `[out, in h w]` |
    | other arrays `[.., m, n]` | a batch of `[m, n]` |
    | LoRA's `[d, r]` and `[r, d]` | the short side alone |
    | `spectral_conv/kernel` and its like `[in, out, modes ..]` | a batch of `[in, out]` |
    | any of these in a stack of layers | one view for each layer |

    Stacked layers are seen by their neighbours: a norm's scale has one axis more than it should, or a bias has an axis
    that belongs to no output of its kernel. A `kernel` with more axes than its module's name allows is a stack, too,
    along the shorter of its first two axes. Neighbours that `optax.masked` or `optax.partition` hide are not seen;
    `precond.views.stacked`, `precond.views.maxtext` and `precond.views.named` need none.

    Args:
      path: the path of the parameter, `"block/mlp/kernel"`.
      leaf: the parameter, or anything with its shape and dtype.

    Examples:
      >>> import jax.numpy as jnp
      >>> default_views("block/mlp/kernel", jnp.zeros((4, 8)))
      View(axes=((0,), (1,)), passive=(), shape=None)
      >>> default_views("block/mlp/bias", jnp.zeros(8)) is None
      True
    """
    parts = parts_of(path)
    if _OF_TORCH.fullmatch(parts[-1]):
        return torch(path, leaf)
    of_haiku = parts[-1] in ("w_i", "w_h") or (parts[-1] == "w" and (is_convolution(parts) or "lstm" in path))
    return haiku(path, leaf) if of_haiku else flax(path, leaf)

"""Choose views by MaxText's layouts, in which scanned layers are stacked along axis 1."""

from typing import Any

from precond.arguments import check_whole
from precond.blocks.parameter import as_parameter
from precond.blocks.parameter_names import is_elementwise
from precond.blocks.path_name import parts_of
from precond.blocks.view import View, Views
from precond.blocks.views.flax import read_kernel
from precond.blocks.views.matrices import has_real_matrix, last_two, with_batch_axes

__all__ = ["maxtext"]


def maxtext(scan_axis: int = 1) -> Views:
    """Return the views of MaxText's models, with and without `scan_layers`.

    An axis of a kernel that its name does not account for is that of the scanned layers: `query/kernel` has three axes,
    `wi_0/kernel` two. Experts (`wi_0`, `wi_1` and `wo` without `kernel`) are the last two axes. Embeddings, logits,
    norms, biases and sinks are not preconditioned.

    Args:
      scan_axis: MaxText's `param_scan_axis`.

    Raises:
      ValueError, TypeError: for an axis that is not an integer, or negative.

    Examples:
      >>> import jax.numpy as jnp
      >>> views = maxtext()
      >>> views("decoder/layers/mlp/wi_0/kernel", jnp.zeros((64, 6, 128)))
      View(axes=((0,), (2,)), passive=(), shape=None)
      >>> views("decoder/layers/self_attention/query/kernel", jnp.zeros((64, 6, 4, 16)))
      View(axes=((0,), (2, 3)), passive=(), shape=None)
    """
    check_whole("scan_axis", scan_axis, least=0)

    def views(path: str, leaf: Any) -> View | None:
        parts, shape = parts_of(path), as_parameter(leaf).shape
        if not has_real_matrix(leaf) or is_elementwise(parts):
            return None
        if parts[-1] in ("wi_0", "wi_1", "wi", "wo"):
            return last_two(shape)
        whole = as_parameter(leaf)
        return with_batch_axes(whole.layer_axes, one_layer)(path, whole)

    def one_layer(path: str, leaf: Any) -> View | None:
        return read_kernel(path, leaf, scan_axis, unknown="rc")

    return views

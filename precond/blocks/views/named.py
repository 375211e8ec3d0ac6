"""Choose views by the names of axes that Flax's boxed parameters carry."""

import re
from typing import Any

import jax

from precond.arguments import described
from precond.blocks.path_name import path_name
from precond.blocks.view import View, Views
from precond.blocks.views.default_views import default_views
from precond.blocks.views.matrices import from_letters, has_real_matrix, with_batch_axes

__all__ = ["batch_axes", "named", "names_of"]

_LAYERS = re.compile(r"(.*_)?(layers?|stages?)|layers_.*|circular_repeats|num_activations", re.I)
_EXPERTS = re.compile(r"(.*_)?(exp|experts?)", re.I)
_TOKENS = re.compile(r"vocab(_.*)?", re.I)
_HEADS = re.compile(r"(.*_)?heads?|kv|head_dim|.*_head_dim|qk|v_dim", re.I)


@described()
def named(params: Any, otherwise: Views = default_views) -> Views:
    """Return views by the names of axes, as `nn.with_logical_partitioning` and nnx's `with_partitioning` give them.

    Axes called "layers", "stage" or "exp", and their like, are batch axes. Neighbouring axes called "heads", "kv" or
    "head_dim" are one side of a matrix. A parameter with a "vocab" axis is not preconditioned. The names are taken from
    `params` once and for all: training loops often hand boxed parameters to `init` and bare ones to `update`, and both
    must read a parameter in the same way.

    Args:
      params: the parameters in their boxes, as `model.init` gives them, or `jax.eval_shape` of it; or an `nnx.State`.
      otherwise: the views of parameters without names, and of one layer of the others, without its batch axes.

    Raises:
      ValueError: for a tree in which nothing carries names.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flax import linen as nn
      >>> box = nn.Partitioned(
      ...     jnp.zeros((64, 6, 4, 16)), names=("embed", "layers", "heads", "kv")
      ... )
      >>> views = named({"attention": {"weights": box}})
      >>> views("attention/weights", jnp.zeros((64, 6, 4, 16)))
      View(axes=((0,), (2, 3)), passive=(), shape=None)
    """
    known = names_of(params)
    if not known:
        raise ValueError(
            "views.named: nothing in the tree carries names of axes. Give the parameters in their boxes, as model.init "
            "returns them, before nn.unbox or nnx.as_pure."
        )

    def views(path: str, leaf: Any) -> View | None:
        names = known.get(path, ())
        if len(names) != len(leaf.shape):
            return otherwise(path, leaf)
        if any(_TOKENS.fullmatch(name) for name in names):
            return None
        batch = batch_axes(names)
        return with_batch_axes(batch, by_sides(names, batch))(path, leaf)

    def by_sides(names: tuple[str, ...], batch: list[int]) -> Views:
        """Read one layer as a matrix with the heads on one side and the other axis on the other."""
        kept = "".join("h" if _HEADS.fullmatch(name) else "x" for k, name in enumerate(names) if k not in batch)
        axes = {"xh": "rc", "hx": "rc", "xhh": "rcc", "hhx": "rrc"}.get(kept)
        return (
            otherwise
            if axes is None
            else lambda path, one: from_letters(axes, one.shape) if has_real_matrix(one) else None
        )

    return views


def batch_axes(names: tuple[str, ...]) -> list[int]:
    """Return the batch axes of a parameter's view: the axes with a name of layers, stages or experts.

    `precond.BlockInfo.batch_axes` is another number: it counts the first axes of a stack.

    The experts are not a batch but the outputs of a router if there is no other axis for the outputs.

    Args:
      names: the names of all axes of a parameter.

    Examples:
      >>> (
      ...     batch_axes(("exp", "layers", "embed", "mlp")),
      ...     batch_axes(("embed", "layers", "exp")),
      ... )
      ([0, 1], [1])
    """
    layers = [axis for axis, name in enumerate(names) if _LAYERS.fullmatch(name)]
    experts = [axis for axis, name in enumerate(names) if _EXPERTS.fullmatch(name)]
    both = sorted({*layers, *experts})
    return both if len(names) - len(both) >= 2 else layers


def names_of(tree: Any) -> dict[str, tuple[str, ...]]:
    """Return the names of the axes of boxed parameters by path; an axis without one has an empty name.

    Flax is not imported: a box is what has `names` and a `value` (Linen), or metadata of a sharding (nnx).

    Args:
      tree: a tree of parameters.

    Examples:
      >>> import jax.numpy as jnp
      >>> names_of({"kernel": jnp.zeros((2, 3))})
      {}
    """
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: _names(x) is not None)[0]
    return {path_name(path): names for path, x in leaves if (names := _names(x)) is not None}


def _names(x: Any) -> tuple[str, ...] | None:
    if hasattr(x, "names") and hasattr(x, "value"):
        names = x.names
    elif hasattr(x, "get_metadata"):
        data = x.get_metadata()
        names = next((data[key] for key in ("out_sharding", "sharding_names", "sharding") if data.get(key)), None)
    else:
        return None
    return None if names is None else tuple(name if isinstance(name, str) else "" for name in names)

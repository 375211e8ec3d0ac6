"""Tell views about one parameter: its shape and dtype, and the shapes around it in the tree."""

import dataclasses
import math
from collections import ChainMap
from collections.abc import Mapping
from typing import Any

import jax

from precond.arguments import shown
from precond.blocks.find_layer_axes import find_layer_axes
from precond.blocks.parameter_names import is_table
from precond.blocks.path_name import parts_of, path_name

__all__ = ["Parameter", "Shapes", "as_parameter", "parameters_among", "parameters_of", "shapes_in"]

Shapes = tuple[tuple[str, tuple[int, ...], Any], ...]
"""The paths, shapes and dtypes of parameters."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """Describe a parameter to a function of views.

    Names of axes (Flax's boxes) are not part of it: a training loop often has them at `init` and not at `update`, and
    both must read a parameter in the same way. `precond.views.named` reads them beforehand.

    Attributes:
      shape: the shape of the parameter.
      dtype: the dtype of the parameter.
      neighbours: the shapes of all parameters of its module ("bias"), itself included, of the modules beside it
        ("../dense/kernel"), and of all tables of tokens or of positions in the tree ("/embed/embedding").
      layer_axes: the axes along which layers are stacked, as the shapes of its neighbours show.

    Examples:
      >>> import jax.numpy as jnp
      >>> Parameter((4, 8), jnp.dtype("float32")).size
      32
    """

    shape: tuple[int, ...]
    dtype: Any
    neighbours: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    layer_axes: tuple[int, ...] = ()

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)

    def without(self, axes: tuple[int, ...]) -> "Parameter":
        """Return one layer of the stack: the parameter, and its neighbours, without these axes.

        Args:
          axes: some of its axes, distinct and not negative.

        Examples:
          >>> Parameter((6, 4, 8), "float32", {"bias": (6, 8)}, (0,)).without((0,))
          Parameter(shape=(4, 8), dtype='float32', neighbours={'bias': (8,)}, layer_axes=())
        """
        kept = [axis for axis in range(self.ndim) if axis not in axes]

        def belongs(shape: tuple[int, ...]) -> bool:
            return all(axis < len(shape) and shape[axis] == self.shape[axis] for axis in axes)

        return Parameter(
            tuple(self.shape[axis] for axis in kept),
            self.dtype,
            {
                name: tuple(d for axis, d in enumerate(shape) if axis not in axes)
                for name, shape in self.neighbours.items()
                if belongs(shape)
            },
            tuple(kept.index(axis) for axis in self.layer_axes if axis not in axes),
        )


def as_parameter(leaf: Any) -> Parameter:
    """Return the parameter that views were given, or make one without neighbours from an array.

    Args:
      leaf: anything with shape and dtype.

    Raises:
      TypeError: for anything else.

    Examples:
      >>> import jax.numpy as jnp
      >>> as_parameter(jnp.ones((2, 3))).shape
      (2, 3)
    """
    if isinstance(leaf, Parameter):
        return leaf
    if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
        raise TypeError(
            f"A view is asked of {shown(leaf)}: views are functions of the path of a parameter and of the parameter "
            f"itself, or of anything with its shape and dtype."
        )
    return Parameter(tuple(leaf.shape), leaf.dtype)


def parameters_of(tree: Any) -> list[tuple[str, Parameter]]:
    """Return the parameters of a tree with their paths and their neighbours, in its order.

    Args:
      tree: a tree of arrays, or of anything with `shape` and `dtype`.

    Examples:
      >>> import jax.numpy as jnp
      >>> tree = {"dense": {"kernel": jnp.ones((6, 64, 128)), "bias": jnp.ones((6, 128))}}
      >>> dict(parameters_of(tree))["dense/kernel"].layer_axes
      (0,)
    """
    return parameters_among(shapes_in(tree))


def shapes_in(tree: Any) -> Shapes:
    """Return the paths, shapes and dtypes of the parameters of a tree, in its order.

    Args:
      tree: a tree of arrays, or of anything with `shape` and `dtype`.

    Examples:
      >>> import jax.numpy as jnp
      >>> shapes_in({"dense": {"kernel": jnp.ones((2, 3))}})
      (('dense/kernel', (2, 3), dtype('float32')),)
    """
    # As JAX sees them: a leaf may be a NumPy array of float64, or a Python number.
    leaves = jax.tree_util.tree_flatten_with_path(jax.eval_shape(lambda t: t, tree))[0]
    return tuple((path_name(path), tuple(leaf.shape), leaf.dtype) for path, leaf in leaves)


def parameters_among(named: Shapes) -> list[tuple[str, Parameter]]:
    """Return parameters with their paths and their neighbours.

    Args:
      named: the result of `shapes_in`.

    Examples:
      >>> (bias, kernel) = parameters_among(
      ...     (("bias", (3,), "float32"), ("kernel", (2, 3), "float32"))
      ... )
      >>> bias[1].neighbours["kernel"]
      (2, 3)
    """
    shapes = {parts_of(name): shape for name, shape, _ in named}
    own: dict[tuple[str, ...], dict[str, tuple[int, ...]]] = {}
    beside: dict[tuple[str, ...], dict[str, tuple[int, ...]]] = {}
    tables = {f"/{'/'.join(parts)}": shape for parts, shape in shapes.items() if is_table(parts)}
    for parts, shape in shapes.items():
        own.setdefault(parts[:-1], {})[parts[-1]] = shape
        beside.setdefault(parts[:-2], {})["/".join(("..", *parts[-2:]))] = shape
    layer_axes = find_layer_axes(shapes)

    def one(name: str, shape: tuple[int, ...], dtype: Any) -> Parameter:
        parts = parts_of(name)
        # If two paths have the same text (a dot in a key), no parameter knows along which axes it is stacked.
        known = layer_axes[parts] if len(shapes) == len(named) else ()
        return Parameter(shape, dtype, ChainMap(own[parts[:-1]], beside[parts[:-2]], tables), known)

    return [(name, one(name, shape, dtype)) for name, shape, dtype in named]

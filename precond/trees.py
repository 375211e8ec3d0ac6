"""Compute with trees of arrays, as several rooms need it. This is floor 0 of the library."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

__all__ = [
    "Factors",
    "Leaf",
    "Mask",
    "Stacks",
    "Tree",
    "all_finite",
    "common_dtype",
    "find_nodes",
    "real_dtype",
    "tree_product",
    "vary",
    "varying",
    "wide",
    "wide_dtype",
    "wide_zeros_like",
]

Node = TypeVar("Node")

Tree = optax.Params
"""A tree of arrays, such as parameters, gradients, or a state."""

Mask = optax.Params | Callable[[optax.Params], optax.Params] | None
"""A choice of parameters: a tree of booleans, a function from parameters to such a tree, or None for all."""

Leaf = jax.Array | jax.ShapeDtypeStruct
"""An array, or its shape and dtype alone."""

Stacks = optax.Params
"""A tree of stacks of blocks, `[N, d1, .., dk]` each; inside `precond.blocked` a dictionary by name."""

Factors = Any
"""The tree of stacks with a tuple in place of each stack, an entry for each axis: its factor `[N, d, d]`, dense or in
half the memory (`precond.linalg.Packed`), its diagonal `[N, d]`, or None."""


def wide_dtype(x: Any) -> jnp.dtype:
    """Return the dtype in which to compute with an array: its own, or float32 if that is narrower.

    Args:
      x: an array, a number, or a shape with a dtype.

    Examples:
      >>> wide_dtype(jnp.ones(2, jnp.bfloat16)), wide_dtype(jnp.ones(2, jnp.complex64))
      (dtype('float32'), dtype('complex64'))
    """
    return jnp.promote_types(jnp.float32, jnp.result_type(x))


def real_dtype(x: Any) -> jnp.dtype:
    """Return the dtype of the real part of an array.

    Args:
      x: an array, a number, or a shape with a dtype.

    Examples:
      >>> real_dtype(jnp.ones(2, jnp.complex64))
      dtype('float32')
    """
    return jnp.finfo(jnp.result_type(x)).dtype


def common_dtype(tree: Tree) -> jnp.dtype:
    """Return the widest of float32 and the real dtypes of all leaves.

    Examples:
      >>> common_dtype({"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2, jnp.complex64)})
      dtype('float32')
    """
    return jnp.result_type(jnp.float32, *[real_dtype(x) for x in jax.tree.leaves(tree)])


def wide(tree: Tree) -> Any:
    """Return the leaves as arrays of float32 or wider.

    Examples:
      >>> wide(jnp.ones(2, jnp.bfloat16)).dtype
      dtype('float32')
    """
    return jax.tree.map(lambda x: jnp.asarray(x, wide_dtype(x)), tree)


def wide_zeros_like(tree: Any) -> Any:
    """Return zeros of float32 or wider: the start of a state, or of the carry of a loop.

    They are sharded as the leaves are, and vary over the devices over which the leaves do.

    Examples:
      >>> wide_zeros_like(jnp.ones(2, jnp.bfloat16)).dtype
      dtype('float32')
    """
    return jax.tree.map(lambda x: jnp.zeros_like(x, dtype=wide_dtype(x)), tree)


def tree_product(x: Tree, y: Tree) -> jax.Array:
    """Return the inner product of two trees, in float32 or wider; complex numbers count as pairs of real ones.

    Args:
      x: a tree.
      y: another tree of the same structure.

    Examples:
      >>> tree_product({"a": jnp.ones(2)}, {"a": jnp.full(2, 3.0)}).item()
      6.0
    """

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        a, b = a.astype(wide_dtype(a)), b.astype(wide_dtype(a))
        return jnp.sum(jnp.real(jnp.conj(a) * b))

    return sum(jax.tree.leaves(jax.tree.map(product, x, y)), jnp.zeros([]))


def all_finite(tree: Tree) -> jax.Array:
    """Return whether every entry of every leaf is finite, a boolean scalar.

    Examples:
      >>> (
      ...     all_finite({"a": jnp.ones(2), "b": jnp.asarray(jnp.nan)}).item(),
      ...     all_finite({}).item(),
      ... )
      (False, True)
    """
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return jnp.asarray(True)
    # The results are stacked before they are tested: XLA copies a chain of `and` into every kernel that reads it.
    return jnp.all(jnp.stack([jnp.any(~jnp.isfinite(x)) for x in leaves]) == 0)


def varying(x: Any) -> frozenset[str]:
    """Return the mesh axes over whose devices a value may differ, inside a `jax.shard_map` that records them.

    Elsewhere the result is empty.

    Examples:
      >>> varying(jnp.ones(2))
      frozenset()
    """
    kind: Any = jax.typeof(x)
    # The name has changed with JAX 0.10.2.
    return kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma


def vary(tree: Tree, axes: frozenset[str]) -> Any:
    """Return the same arrays, marked as differing over these mesh axes.

    Args:
      tree: a tree whose leaves may differ over some of the axes already.
      axes: the axes of the enclosing `jax.shard_map`.

    Examples:
      >>> vary(jnp.ones(2), frozenset()).tolist()
      [1.0, 1.0]
    """

    def cast(x: jax.Array) -> jax.Array:
        missing = tuple(sorted(axes - varying(x)))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, tree)


def find_nodes(tree: Any, kind: type[Node]) -> list[Node]:
    """Return all nodes of a tree that are of this type, in the order of the tree, without nodes inside of others.

    Args:
      tree: a tree, such as the state of an optimizer.
      kind: the type of a node, such as that of a transformation's state.

    Examples:
      >>> state = optax.adam(1e-3).init(jnp.ones(2))
      >>> [x.count.item() for x in find_nodes(state, optax.ScaleByAdamState)]
      [0]
    """
    return [x for x in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, kind)) if isinstance(x, kind)]

"""Tell how the state of an optimizer is sharded over a mesh before it exists."""

from typing import Any

import jax
import optax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from precond.arguments import check_part, described

__all__ = ["state_shardings"]


@described()
def state_shardings(tx: optax.GradientTransformation, params: Any, mesh: Mesh | None = None) -> Any:
    """Say how the state of an optimizer is divided over the devices of a mesh.

    Stacks of blocks are divided as `axis=` says, and moments lie as their parameters do. It is for training loops that
    make their state under `jax.jit(.., out_shardings=)`, which would otherwise put the whole state on every device:
    such a loop works out its shardings from the parameters' metadata, and stacks have none.

    Args:
      tx: an optimizer, from this library or around it.
      params: a tree of arrays, or of anything with shape and dtype. The `sharding` of a leaf, where it has one, says
        how it lies on the mesh; any other leaf counts as replicated.
      mesh: None takes that of the context (`jax.set_mesh`), or of the parameters.

    Returns:
      A tree of the structure of `tx.init(params)`, with a `NamedSharding` in place of each array.

    Raises:
      ValueError: if there is no mesh, or if the optimizer cannot divide its stacks over it.
      TypeError: if `mesh` is not a mesh, or a leaf has no shape and dtype.

    Examples:
      >>> import jax.numpy as jnp, precond
      >>> mesh = jax.make_mesh((1,), ("data",))
      >>> tx, params = precond.shampoo(1e-3, axis="data"), {"kernel": jnp.ones((4, 6))}
      >>> shardings = state_shardings(tx, params, mesh)
      >>> state = jax.jit(tx.init, out_shardings=shardings)(params)
      >>> {tuple(s.spec) for s in jax.tree.leaves(shardings)} == {(), ("data",)}
      True
    """
    if mesh is None:
        mesh = _mesh_of(params)
    check_part("mesh", mesh, Mesh, "jax.make_mesh((8,), ('data',))")
    bad = [x for x in jax.tree.leaves(params) if not hasattr(x, "shape") or not hasattr(x, "dtype")]
    if bad:
        raise TypeError(
            f"params= has a leaf {bad[0]!r} without shape and dtype: pass arrays, or jax.eval_shape of them."
        )
    # On a mesh of explicit axes types say how every array is sharded, so that a trace tells it.
    typed = AbstractMesh(mesh.axis_sizes, mesh.axis_names, axis_types=(AxisType.Explicit,) * len(mesh.axis_names))

    def placed(x: Any) -> jax.ShapeDtypeStruct:
        spec = getattr(getattr(x, "sharding", None), "spec", PartitionSpec())
        named = {a for part in spec for a in ((part,) if isinstance(part, str) else part or ())}
        if unknown := sorted(named - set(mesh.axis_names)):
            raise ValueError(
                f"params= has an array of shape {x.shape} that lies on the axis {unknown[0]!r}, but mesh= has the axes "
                f"{mesh.axis_names}: pass the mesh of the parameters."
            )
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(typed, spec))

    with jax.sharding.use_abstract_mesh(typed):
        state = jax.eval_shape(lambda tree: tx.init(tree), jax.tree.map(placed, params))
    return jax.tree.map(lambda x: NamedSharding(mesh, _shortened(x.sharding)), state)


def _shortened(sharding: Any) -> PartitionSpec:
    """Return the specification of an array, without axes at its end that are not divided."""
    spec = list(PartitionSpec() if sharding is None else sharding.spec)
    while spec and spec[-1] is None:
        spec.pop()
    return PartitionSpec(*spec)


def _mesh_of(params: Any) -> Mesh:
    """Return the mesh of the context, or that of the first parameter that has one."""
    meshes = [
        jax.sharding.get_mesh(),
        *(getattr(getattr(x, "sharding", None), "mesh", None) for x in jax.tree.leaves(params)),
    ]
    for mesh in meshes:
        if isinstance(mesh, Mesh) and not mesh.empty:
            return mesh
    raise ValueError(
        "There is no mesh: pass mesh=, call state_shardings within jax.set_mesh(mesh), or give params shardings."
    )

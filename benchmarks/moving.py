"""Move blocks on a TPU in the ways that the library does, and in others.

    .venv-tpu/bin/python benchmarks/moving.py        writes results/moving.json; `make accelerators` builds .venv-tpu

Nothing is run: the compiler of a TPU v5e says what each program costs. The matrices are those of GPT-2 small.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import jax
import jax.numpy as jnp
import measure
from ahead import targets
from ahead.one_program import cost, on_one_chip
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from precond.blocks.cuts import cut_blocks, cuts_of, paste_blocks
from precond.mesh import collectives_over, find_placement, sharded

STACKS = {"768x768": (48, 768, 768), "768x1024": (72, 768, 1024)}
KERNELS = {f"layer_{i:02}": {"up": (768, 3072), "down": (3072, 768)} for i in range(12)}
SIDE = 768


def in_own_shapes(stacks, mesh):
    """Gather as the library does."""
    return collectives_over(find_placement(sharded("data"), mesh, stacks)).all_gather(stacks)


def as_one_row(stacks, mesh):
    """Gather one array, in which all stacks lie side by side."""
    row = jnp.concatenate([x.reshape(-1) for x in stacks.values()])
    rows = lax.all_gather(row[None], "data", tiled=True, to="invarying")
    out, start = {}, 0
    for name, x in stacks.items():
        out[name] = rows[:, start : start + x.size].reshape(-1, *x.shape[1:])
        start += x.size
    return out


def gathered(gather):
    """Return what a way to gather costs on eight chips."""
    mesh = Mesh(targets.devices_of(targets.TARGETS["v5e-8"]), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    shapes = {name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=rows) for name, shape in STACKS.items()}
    program = jax.shard_map(lambda x: gather(x, mesh), mesh=mesh, in_specs=rows.spec, out_specs=PartitionSpec())
    return cost(program, shapes)


def region_of(shape):
    """Return how a kernel is cut into squares."""
    return tuple(cuts_of(d, SIDE)[0] for d in shape)


def by_transposition(kernel):
    """Cut a kernel into squares as the library does, by one transposition."""
    return cut_blocks(kernel[None], region_of(kernel.shape))


def by_slices(kernel):
    """Cut a kernel into squares by slices."""
    m, n = (d // SIDE for d in kernel.shape)
    return jnp.stack(
        [lax.slice(kernel, (i * SIDE, j * SIDE), ((i + 1) * SIDE, (j + 1) * SIDE)) for i in range(m) for j in range(n)]
    )


def joined_by_transposition(blocks, shape):
    """Join squares by one transposition."""
    m, n = (d // SIDE for d in shape)
    return blocks.reshape(m, n, SIDE, SIDE).transpose(0, 2, 1, 3).reshape(shape)


def joined_by_slices(blocks, shape):
    """Join squares as the library does, by slices."""
    return paste_blocks(blocks, region_of(shape))[0]


def is_shape(x):
    """Return whether a leaf is the shape of a kernel."""
    return isinstance(x, tuple)


def main():
    """Compile all ways."""
    kernels = jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), KERNELS, is_leaf=is_shape)
    stack = jax.ShapeDtypeStruct((96, SIDE, SIDE), jnp.float32)

    def packed(cut):
        return lambda tree: jnp.concatenate([cut(x) for x in jax.tree.leaves(tree)])

    def unpacked(join):
        def run(stack):
            leaves, treedef = jax.tree.flatten(KERNELS, is_leaf=is_shape)
            return treedef.unflatten([join(stack[4 * i : 4 * i + 4], shape) for i, shape in enumerate(leaves)])

        return run

    found = {
        "gather": {"in their own shapes": gathered(in_own_shapes), "as one flat row": gathered(as_one_row)},
        "cut": {
            "by transposition": on_one_chip(packed(by_transposition), kernels),
            "by slices": on_one_chip(packed(by_slices), kernels),
        },
        "join": {
            "by transposition": on_one_chip(unpacked(joined_by_transposition), stack),
            "by slices": on_one_chip(unpacked(joined_by_slices), stack),
        },
    }
    measure.save("moving", {"stacks": STACKS, "kernels": KERNELS["layer_00"], "layers": 12, "v5e": found})


if __name__ == "__main__":
    main()

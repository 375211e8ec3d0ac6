"""Optimizers by name: `shampoo-768` is `precond.shampoo` with blocks of at most 768.

The small ones keep momentum, second moments, roots and bases in bfloat16. Shampoo has the powers of its paper, and on
one device the delay that it has on a mesh, so that figures of different commits can be compared.
"""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

import precond

RATE = 1e-3
SMALL = {"memory": precond.Memory()}
PAPER: dict[str, Any] = {"power": None, "refresh": precond.every(20, stagger=True, delay=1)}
BLOCKED = {
    "shampoo": functools.partial(precond.shampoo, **PAPER),
    "small_shampoo": functools.partial(
        precond.shampoo, **PAPER, **SMALL, magnitude=precond.transforms.scale_by_mean_square(0.95)
    ),
    "soap": precond.soap,
    "small_soap": functools.partial(precond.soap, **SMALL),
    "kl_shampoo": precond.kl_shampoo,
    "muon": precond.muon,
}
NAMES = ("adamw", "optax_muon", *BLOCKED, "kfac")


def parsed(name):
    """The name without its block size, and the block size or None.

    >>> parsed("kl_shampoo-256"), parsed("adamw")
    (('kl_shampoo', 256), ('adamw', None))
    """
    found = re.fullmatch(r"([a-z_]+)(?:-(\d+))?", name)
    base, size = (found[1], found[2]) if found else ("", None)
    if base not in NAMES or (size and base not in BLOCKED):
        sizes = ", ".join(f"{b}-256" for b in BLOCKED)
        raise ValueError(
            f"There is no optimizer {name!r}: pass one of {', '.join(NAMES)}, or with a block size, {sizes}."
        )
    return base, int(size) if size else None


def optimizer_of(name, shapes, axis, *, scanned=False):
    """The optimizer, and what its `update` takes beside gradients and parameters.

    Args:
      name: as `parsed` reads it.
      shapes: of the parameters.
      axis: as the optimizers of the library take it; None on one device.
      scanned: whether the leaves under `layers` are stacks of layers.
    """
    base, size = parsed(name)
    if base == "adamw":
        return optax.adamw(RATE), {}
    if base == "optax_muon":
        dimensions = functools.partial(jax.tree_util.tree_map_with_path, functools.partial(_matrix, scanned=scanned))
        return optax.contrib.muon(RATE, muon_weight_dimension_numbers=dimensions), {}
    if base == "kfac":
        return _kfac(shapes, axis)
    given = {} if size is None else {"block_size": size}
    if scanned:
        given["views"] = precond.views.stacked("^layers/", axis=0)
    return BLOCKED[base](RATE, axis=axis, **given), {}


def _matrix(path, x, *, scanned):
    """How Muon reads a parameter: kernels and experts as matrices, everything else not at all."""
    leaf, stacked = path[-1].key, scanned and path[0].key == "layers"
    if leaf not in ("kernel", "w"):
        return None
    sides = tuple(range(1 if stacked or leaf == "w" else 0, x.ndim))
    return optax.contrib.MuonDimensionNumbers(reduction_axis=sides[:-1], output_axis=sides[-1:])


def _kfac(shapes, axis):
    """K-FAC of the dense layers; factors come as arguments, as a training loop hands them on."""
    names = [jax.tree_util.keystr(path[:-1], simple=True, separator="/") for path, _ in _kernels(shapes)]
    if any(x.ndim != 2 for _, x in _kernels(shapes)):
        raise ValueError(
            "K-FAC is compiled for models whose kernels are all matrices: pass --model gpt-small or gpt-124m."
        )
    kinds = {name: precond.layers.dense() for name in names}
    layers = precond.layers.explicit(kinds, shapes, allow_uncovered=[".*embedding.*", ".*norm.*"]).layers

    def factors(layer):
        groups, n, m = layer.size
        sides = (jax.ShapeDtypeStruct((groups, d, d), jnp.float32) for d in (n, m))
        return precond.layers.LayerFactors(*sides)

    return precond.kfac(0.1, layers, axis=axis), {"factors": {name: factors(x) for name, x in layers.items()}}


def _kernels(shapes):
    leaves, _ = jax.tree_util.tree_flatten_with_path(shapes)
    return [(path, x) for path, x in leaves if path[-1].key in ("kernel", "w")]

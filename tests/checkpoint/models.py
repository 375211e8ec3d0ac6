"""Trees of parameters whose names, order and shapes change, and runs on them."""

import jax
import numpy as np

SHAPES = {"a": (12, 8), "b": (12, 8), "c": (12, 8)}


def parameters(names=("a", "b", "c"), shapes=SHAPES, seed=0):
    """Dense layers by name; the numbers of a layer depend on its place alone."""
    rng = np.random.default_rng(seed)

    def layer(shape):
        return {"kernel": rng.standard_normal(shape, np.float32), "bias": rng.standard_normal(shape[1], np.float32)}

    return {name: layer(shape) for name, shape in zip(names, shapes.values(), strict=True)}


def gradients(step, params):
    leaves, treedef = jax.tree.flatten(params)
    rng = np.random.default_rng(1000 + step)
    # Of different sizes, so that the statistics of one are bad for another.
    return treedef.unflatten([(1 + 3 * i) * rng.standard_normal(x.shape, np.float32) for i, x in enumerate(leaves)])


def run(tx, params, state=None, steps=range(4)):
    """The state after some steps on parameters that stay, and the last updates."""
    state, update, out = jax.jit(tx.init)(params) if state is None else state, jax.jit(tx.update), None
    for step in steps:
        out, state = update(gradients(step, params), state, params)
    return state, out


def renamed(tree, **names):
    """Other names, in the order of dictionaries, which is that of the alphabet."""
    return {names.get(name, name): x for name, x in tree.items()}


def equal(first, second):
    return jax.tree.structure(first) == jax.tree.structure(second) and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    )

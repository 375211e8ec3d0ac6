"""The length of the update's program, counted: it does not grow with depth, and calls of LAPACK not at all."""

import jax
import optax
import pytest

import precond

OPTIMIZERS = {
    "shampoo": lambda: precond.shampoo(1e-3, weight_decay=1e-4),
    "shampoo, blocks of 128": lambda: precond.shampoo(1e-3, weight_decay=1e-4, block_size=128),
    "shampoo, newton": lambda: precond.shampoo(1e-3, weight_decay=1e-4, method=precond.newton()),
    "soap": lambda: precond.soap(1e-3, weight_decay=1e-4),
    "kl_shampoo": lambda: precond.kl_shampoo(1e-3, weight_decay=1e-4),
}


def transformer(layers, width=256, hidden=1024):
    def layer():
        shapes = {name: {"kernel": (width, width)} for name in ("query", "key", "value", "out")}
        shapes |= {"up": {"kernel": (width, hidden)}, "down": {"kernel": (hidden, width)}}
        return shapes | {"norm_1": {"scale": (width,)}, "norm_2": {"scale": (width,)}}

    shapes = {f"layer_{i:02}": layer() for i in range(layers)}
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, "float32"), shapes, is_leaf=lambda x: isinstance(x, tuple))


def program(tx, layers, platform="cpu"):
    params = transformer(layers)
    traced = jax.jit(tx.update).trace(params, jax.eval_shape(tx.init, params), params)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def count(text):
    return {"lapack": text.count("@lapack"), "while": text.count("stablehlo.while")}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_program_is_flat(make):
    shallow, deep = (program(make(), layers) for layers in (4, 32))
    assert count(shallow) == count(deep)
    adamw = program(optax.adamw(1e-3), 32)
    assert len(deep.splitlines()) <= 2.5 * len(adamw.splitlines())


def test_the_solver_is_called_once_for_all_factors_of_one_size():
    # At 256 every block is 256 by 256. The first step takes all turns, by the same function.
    text = program(precond.shampoo(1e-3, block_size=256, method=precond.eigh()), 32, "cuda")
    assert text.count("custom_call @cusolver_syevd") == 1

"""The length of the update's program, counted: it does not grow with depth, and calls of LAPACK not at all."""

import functools
import re

import jax
import optax
import pytest

import precond

pytestmark = pytest.mark.optimized

OPTIMIZERS = {
    "shampoo": lambda: precond.shampoo(1e-3, weight_decay=1e-4),
    "shampoo, blocks of 128": lambda: precond.shampoo(1e-3, weight_decay=1e-4, block_size=128),
    "shampoo, newton": lambda: precond.shampoo(1e-3, weight_decay=1e-4, method=precond.newton()),
    "soap": lambda: precond.soap(1e-3, weight_decay=1e-4),
    "kl_shampoo": lambda: precond.kl_shampoo(1e-3, weight_decay=1e-4),
    "kl_soap": lambda: precond.kl_soap(1e-3, weight_decay=1e-4),
    "muon": lambda: precond.muon(1e-3, weight_decay=1e-4),
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


DEEP = 24


@functools.cache
def lines_of_adamw():
    return len(program(optax.adamw(1e-3), DEEP).splitlines())


def count(text):
    return {"lapack": text.count("@lapack"), "while": text.count("stablehlo.while")}


@pytest.mark.parametrize(
    "make",
    [pytest.param(f, id=n, marks=[pytest.mark.slow] * (n not in ("shampoo", "muon"))) for n, f in OPTIMIZERS.items()],
)
def test_the_program_is_flat(make):
    # With 12 layers two roots of a size are due in a step; a single one is decomposed without a loop.
    shallow, deep = (program(make(), layers) for layers in (12, DEEP))
    assert count(shallow) == count(deep)
    assert len(deep.splitlines()) <= 2.5 * lines_of_adamw()


def test_the_solver_is_called_once_for_all_factors_of_one_size():
    # At 256 every block is 256 by 256. The first step takes all turns, by the same function.
    text = program(precond.shampoo(1e-3, block_size=256, method=precond.eigh()), 32, "cuda")
    assert text.count("custom_call @cusolver_syevd") == 1


GUARDED = {
    "shampoo": lambda: precond.shampoo(1e-3),
    "finite_steps": lambda: precond.transforms.finite_steps(optax.adam(1e-3)),
}


@pytest.mark.parametrize("make", GUARDED.values(), ids=GUARDED)
def test_each_vector_is_checked_once(make):
    # One NaN stops the update of all vectors, so that each kernel needs the answer for all of them.
    vectors = {f"v{i:02}": jax.ShapeDtypeStruct((8 + i,), "float32") for i in range(12)}
    tx = make()
    text = jax.jit(tx.update).lower(vectors, jax.eval_shape(tx.init, vectors), vectors).compile().as_text()
    assert text.count("is-finite(") <= 12
    assert text.count(" and(") <= 12


def kernels(tx, layers):
    """How many fused computations XLA compiles to machine code on the CPU: those that differ in more than names."""
    params = transformer(layers, width=8, hidden=16)
    state = jax.eval_shape(tx.init, params)
    text = jax.jit(tx.update).lower(params, state, params).compile().as_text()
    bodies = dict(re.findall(r"^%([\w.-]+) \(.*?\{\n(.*?)^\}", text, re.M | re.S))

    def anonymous(body):
        names: dict[str, str] = {}
        body = re.sub(r", metadata=\{.*?\}", "", body)
        return re.sub(r"%[\w.-]+", lambda m: names.setdefault(m.group(), f"%{len(names)}"), body)

    return len({anonymous(bodies[name]) for name in re.findall(r"fusion\(.*calls=%([\w.-]+)", text)})


def test_what_is_compiled_to_machine_code_hardly_grows_with_depth():
    tx = precond.shampoo(1e-3, refresh=precond.every(3, stagger=True))
    # There are 18 matrices more, each of them a slice of a stack: if places were constants, a kernel of its own.
    # (Three layers more are as many rows more in each of the three turns, and so no other slots in any.)
    newer = tuple(map(int, jax.__version__.split(".")[:2])) >= (0, 11)
    assert kernels(tx, 6) - kernels(tx, 3) <= (12 if newer else 6)

"""Gradients that come divided over devices: they go to the owners of their blocks, and none is gathered whole."""

import functools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import precond
from precond import layers
from precond.blocks import Layer, View, layout_of
from tests import hlo
from tests.mesh import loops

EXPLICIT, AUTO = loops.EXPLICIT, loops.AUTO
BOTH_KINDS = pytest.mark.parametrize(
    "kind", [EXPLICIT, pytest.param(AUTO, marks=pytest.mark.slow)], ids=["explicit", "auto"]
)

# Batches, ragged blocks, axes that are merged, fused and passive; and what no device's number divides.
SHAPES = {
    "matrix": (24, 32),
    "layers": (3, 16, 24),
    "divided in its batch": (8, 5, 16),
    "convolution": (2, 3, 8, 16),
    "fused": (24, 48),
    "one side": (40, 8),
    "ragged": (24, 20),
    "odd": (9, 11),
    "vector": (16,),
}
VIEWS = {
    "layers": View((1, 2)),
    "divided in its batch": View((1, 2)),
    "convolution": View(((0, 1, 2), 3)),
    "fused": View((0, 2), shape=(24, 3, 16)),
    "one side": View((0, 1), passive=(0,)),
    "vector": None,
}
FIRST = {name: P("data") if shape[0] % 8 == 0 else P() for name, shape in SHAPES.items()} | {"layers": P(None, "data")}
LAST = {name: P(*[None] * (len(shape) - 1), "data" if shape[-1] % 8 == 0 else None) for name, shape in SHAPES.items()}
CROSSED = {name: P(*["model"] + [None] * (len(s) - 1)) if s[0] % 2 == 0 else P() for name, s in SHAPES.items()}


def view_of(path, leaf):
    return VIEWS.get(path, View((0, 1)))


def marked():
    """Each number times its place: that of the block in its stack, and that in the block."""

    def update(updates, state, params=None, *, blocks, **extra):
        def one(x, i):
            inside = 1 + jnp.arange(math.prod(x.shape[1:]), dtype=x.dtype).reshape(x.shape[1:])
            return x * (1 + i.reshape(-1, *[1] * (x.ndim - 1))) * inside

        out = jax.tree.map(one, updates, blocks.index)
        return (out if params is None else jax.tree.map(lambda x, p: x + p, out, params)), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def numbers(seed, dtype="float32"):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.integers(-8, 8, shape), dtype) for name, shape in SHAPES.items()}


def moved(axis, mesh, specs):
    tx = precond.blocked(marked(), block_size=16, views=view_of, otherwise=optax.scale(2.0), axis=axis)
    grads, params = (loops.put(numbers(i), mesh, specs) for i in range(2))
    return jax.jit(tx.update)(grads, tx.init(params), params)[0]


DIVIDED = {
    "along the first axis": ((8,), "data", FIRST),
    "along the last axis": ((8,), "data", LAST),
    "over an axis that divides no stack": ((4, 2), "data", CROSSED),
    "and over both": ((4, 2), ("data", "model"), CROSSED),
}


CASES = [(name, kind) for name in DIVIDED for kind in (EXPLICIT, AUTO)]
FEW = {("along the first axis", AUTO), ("along the last axis", EXPLICIT), ("and over both", EXPLICIT)}


@pytest.mark.parametrize(
    ("name", "kind"),
    [pytest.param(*c, id=f"{c[0]}, {c[1].name}", marks=[pytest.mark.slow] * (c not in FEW)) for c in CASES],
)
def test_every_number_comes_to_its_place_in_its_block_and_back(name, kind):
    shape, axis, specs = DIVIDED[name]
    mesh = loops.mesh_of(kind, shape, ("data", "model")[: len(shape)])
    found = moved(precond.sharded(axis, gradients="data"), mesh, specs)
    expected = moved(precond.sharded(None, multiple=8), loops.mesh_of(shape=(1,)), P())
    chex.assert_trees_all_equal(found, expected)
    if kind == EXPLICIT:
        typed = jax.tree.map(lambda x: jax.typeof(x).sharding.spec, found)
        assert typed == {name: P(*s, *[None] * (len(SHAPES[name]) - len(s))) for name, s in specs.items()}


def test_parameters_keep_their_own_precision():
    def update(updates, state, params, **extra):
        return jax.tree.map(lambda p: (p - 1) * 1024, params), state

    inner = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    tx, mesh = precond.blocked(inner, block_size=8, axis="data"), loops.mesh_of(EXPLICIT)
    kernel = jnp.asarray(np.arange(256.0).reshape(16, 16), "float32")
    params, grads = ({"kernel": loops.put(x, mesh, P("data"))} for x in (1 + kernel / 1024, kernel.astype("bfloat16")))
    found = jax.jit(tx.update)(grads, tx.init(params), params)[0]["kernel"]
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.astype("float32"), kernel)


MODEL = {"embedding": (64, 16), "layers": (3, 64, 32), "up": (32, 64), "down": (64, 32), "bias": (64,)}
ROWS = {name: P(None, "data") if name == "layers" else P("data") for name in MODEL}
SENT = re.compile(r"= (\(?\w+\[.*) (all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)(?:-start)?\(")


def collectives(program):
    """Of a compiled program, each with how many numbers a device has of it."""
    found = SENT.findall(program.as_text())
    sizes = [[math.prod(int(d) for d in s.split(",") if d) for s in re.findall(r"\[([\d,]*)\]", x)] for x, _ in found]
    return [(kind, sum(size)) for (_, kind), size in zip(found, sizes, strict=True)]


def shampoo():
    return precond.shampoo(1e-2, block_size=16, axis=precond.sharded("data", gradients="data"), refresh=1)


@functools.cache
def program(kind):
    return lowered(kind).compile()


def lowered(kind, dtype="float32", specs=ROWS):
    """An update of fully sharded parameters."""
    mesh, tx = loops.mesh_of(kind), shampoo()
    put = functools.partial(loops.put, mesh=mesh, specs=specs)
    params = put({name: jnp.ones(shape, dtype) for name, shape in MODEL.items()})
    state = tx.init(params)
    update = jax.jit(tx.update, out_shardings=(jax.tree.map(lambda x: x.sharding, params), None))
    return update.lower(params, state, params)


@BOTH_KINDS
def test_no_gradient_is_gathered(kind):
    found = collectives(program(kind))
    assert [n for what, n in found if what != "all-to-all"] == [2, 1]  # which gradients are not finite
    total = sum(math.prod(s) for name, s in MODEL.items() if name not in ("embedding", "bias"))
    sent = sum(n for what, n in found if what == "all-to-all")
    padded = sum(math.prod(s.shape) for s in layout(MODEL).stacks.values())
    assert sent == 2 * total // 8 + 2 * padded // 8


def test_slices_of_blocks_travel_in_their_own_shape():
    # From each device to each: slices of up, of the three layers and of down, and those of the five blocks of a device.
    slices = [(8, 8, 4), (8, 3, 8, 4), (8, 4, 8)]
    assert hlo.results_of(lowered(EXPLICIT).as_text(), "all_to_all") == [*slices, (8, 5, 16, 2), (8, 5, 16, 2), *slices]


OF_MUON = {f"{name}_{i}": shape for name, shape in (("up", (64, 128)), ("query", (64, 64))) for i in range(8)}
OF_MUON |= {"embedding": (64, 64), "scale": (64,)}


def muon(kind, devices, specs):
    """A compiled update with Muon."""
    mesh = loops.mesh_of(kind, (devices,))
    tx = precond.muon(0.02, weight_decay=0.1, axis=precond.sharded("data", gradients="data"))
    params = loops.put({name: jnp.ones(shape) for name, shape in OF_MUON.items()}, mesh, specs)
    update = jax.jit(tx.update, out_shardings=(jax.tree.map(lambda x: x.sharding, params), None))
    return update.lower(params, tx.init(params), params).compile()


@BOTH_KINDS
def test_muon_sends_matrices_to_their_homes_alone_and_divides_its_products(kind):
    whole, divided = muon(kind, 1, P()), muon(kind, 8, P("data"))
    sent = collectives(divided)
    assert [n for what, n in sent if what != "all-to-all"] == [2, 1]  # which gradients are not finite
    total = 8 * (64 * 128 + 64 * 64)
    # Gradients to where blocks are joined, blocks to their homes, and the same way back.
    assert sum(n for what, n in sent if what == "all-to-all") == 4 * total // 8
    share = divided.cost_analysis()["flops"] / whole.cost_analysis()["flops"]
    assert 1 <= 8 * share < 1.05


LAYERS = {
    "up": Layer("up/kernel", "up/bias", 0, (16, 8, 4), (), (0,), (1, 2)),
    "scanned": Layer("scanned/kernel", "scanned/bias", 1, (32, 32), (), (0,), (1,)),
    "wide": Layer("wide/kernel", None, 0, (32, 24), (), (0,), (1,), positions=4),
    "odd": Layer("odd/kernel", "odd/bias", 0, (24, 10), (), (0,), (1,)),  # its outputs do not divide
    "grouped": layers.Conv(True, (2,), (1,), "SAME", (1,), (1,), 8).layer("grouped/kernel", "grouped/bias", (2, 3, 64)),
    "table": layers.Embed(16).layer("table/embedding", None, (16, 8)),
    "norm": layers.Scale(True).layer("norm/scale", "norm/bias", (16,)),
}
LAYER_SHAPES = {
    "up": {"kernel": (16, 32), "bias": (32,)},
    "scanned": {"kernel": (3, 32, 32), "bias": (3, 32)},
    "wide": {"kernel": (32, 24)},
    "odd": {"kernel": (24, 10), "bias": (10,)},
    "grouped": {"kernel": (2, 3, 64), "bias": (64,)},
    "table": {"embedding": (16, 8)},
    "norm": {"scale": (16,), "bias": (16,)},
}
LAYER_ROWS = {
    "up": {"kernel": P("data"), "bias": P("data")},
    "scanned": {"kernel": P(None, "data"), "bias": P(None, "data")},
    "wide": {"kernel": P("data")},
    "odd": {"kernel": P("data"), "bias": P()},
    "grouped": {"kernel": P(None, None, "data"), "bias": P("data")},
    "table": {"embedding": P("data")},
    "norm": {"scale": P("data"), "bias": P("data")},
}


def of_layers(make):
    return {name: {key: make(shape) for key, shape in shapes.items()} for name, shapes in LAYER_SHAPES.items()}


def of_layers_tx(axis):
    inner = precond.by_layer(marked(), LAYERS)
    return precond.blocked(inner, block_size=None, views=precond.views.layers(LAYERS), axis=axis)


def layers_moved(kind, axis, specs):
    """What K-FAC makes of whole numbers, and the program that does."""
    mesh, rng = loops.mesh_of(kind), np.random.default_rng(0)
    tx = of_layers_tx(axis)
    grads = of_layers(lambda shape: jnp.asarray(rng.integers(-8, 8, shape), "float32"))
    grads = loops.put(grads, mesh, specs)
    shardings = jax.tree.map(lambda x: x.sharding, grads)
    update = jax.jit(functools.partial(tx.update, factors=None), out_shardings=(shardings, None))
    compiled = update.lower(grads, tx.init(grads), grads).compile()
    return compiled(grads, tx.init(grads), grads)[0], compiled


@BOTH_KINDS
def test_layers_are_joined_where_they_are(kind):
    found, compiled = layers_moved(kind, precond.sharded("data", gradients="data"), LAYER_ROWS)
    expected, _ = layers_moved(kind, precond.sharded(None, multiple=8), P())
    chex.assert_trees_all_equal(found, expected)
    sent = collectives(compiled)
    # Gathered are, of what does not divide, gradients, parameters and directions; summed is what is not finite.
    assert sum(n for what, n in sent if what == "all-gather") == 2 * (240 + 16 + 16) + 8 * 250 + 16 * 2
    assert sum(n for what, n in sent if what == "all-reduce") == 1
    # Weights come to where they are joined, and matrices to their owners: both of gradients and parameters, and back.
    # No bias does, but that of groups, which is divided by these.
    weights = 16 * 32 + 3 * 32 * 32 + 32 * 24 + 2 * 3 * 64 + 64 + 16 * 8
    stacks = 8 * (17 * 32 + 33 * 32 + 32 * 24 + 7 * 8 + 16 * 8)
    exchanged = sum(n for what, n in sent if what == "all-to-all")
    assert exchanged == 3 * weights // 8 + 3 * stacks // 8


def test_and_what_is_planned_of_them_is_that():
    mesh = loops.mesh_of(EXPLICIT)
    compiled = layers_moved(EXPLICIT, "data", LAYER_ROWS)[1]
    shapes = of_layers(lambda shape: jax.ShapeDtypeStruct(shape, "float32"))
    shapes = jax.tree.map(
        lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec)), shapes, LAYER_ROWS
    )
    tx = of_layers_tx("data")
    planned = precond.plan(tx, shapes, mesh=mesh.shape, extra={"factors": None})
    assert planned.wire["all-to-all"] == sum(
        n * 4 * 7 // 8 for what, n in collectives(compiled) if what == "all-to-all"
    )


@pytest.mark.parametrize(
    "along", [0, pytest.param(-1, marks=pytest.mark.slow)], ids=["along the first axis", "the last"]
)
def test_what_is_planned_is_what_is_sent(along):
    specs = ROWS if along == 0 else {n: P(*[None] * (len(s) - 1), "data") for n, s in MODEL.items()}
    compiled = program(EXPLICIT) if along == 0 else lowered(EXPLICIT, specs=specs).compile()
    found = sum(n * 4 * 7 // 8 for what, n in collectives(compiled) if what == "all-to-all")
    mesh = loops.mesh_of(EXPLICIT)
    shapes = {
        name: jax.ShapeDtypeStruct(shape, "float32", sharding=NamedSharding(mesh, specs[name]))
        for name, shape in MODEL.items()
    }
    planned = precond.plan(shampoo(), shapes, mesh=mesh.shape)
    assert planned.wire["all-to-all"] == found > 0
    assert planned.wire["all-reduce"] == 7  # how many blocks are not finite
    assert planned.bytes["rest"] < 2 * 4 * (64 * 16 + 64) // 8 + 100  # moments of what has no blocks, divided as it is


def layout(shapes):
    tree = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}
    return layout_of(tree, precond.views.default, 16, 8)


def test_bfloat16_gradients_travel_as_they_are():
    # As lowered: the CPU's compiler knows no bfloat16.
    kinds = re.findall(r"stablehlo.all_to_all.*-> tensor<[\dx]+x(\w+)>", lowered(EXPLICIT, "bfloat16").as_text())
    assert set(kinds) == {"bf16"}


def test_what_has_no_blocks_is_divided_where_it_is_given_some():
    mesh, shapes = loops.mesh_of(), {"embedding": (40, 16), "kernel": (8, 8), "bias": (16,)}
    adam = optax.scale_by_adam()
    on_blocks = precond.blocked(adam, block_size=8, views=precond.views.tensors(min_rank=2), axis="data")
    params = loops.put({name: jnp.ones(s) for name, s in shapes.items()}, mesh)
    rng, states, found = np.random.default_rng(0), {}, {}
    txs = {n: precond.blocked(optax.identity(), otherwise=tx, axis="data") for n, tx in enumerate((adam, on_blocks))}
    states = {n: tx.init(params) for n, tx in txs.items()}
    for _ in range(2):
        grads = loops.put({name: jnp.asarray(rng.standard_normal(s), "float32") for name, s in shapes.items()}, mesh)
        for n, tx in txs.items():
            found[n], states[n] = jax.jit(tx.update)(grads, states[n])
    chex.assert_trees_all_close(found[1], found[0], rtol=1e-6)
    mu = states[1].otherwise.inner_state.inner.stacks.stacks.mu["8x8"]
    assert mu.shape == (16, 8, 8)  # ten blocks
    assert mu.addressable_shards[0].data.shape == (2, 8, 8)

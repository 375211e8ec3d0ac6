"""What is planned is what is allocated, computed and sent: against arrays, XLA's own counts, and compiled programs."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import precond
from precond.linalg.products import product
from tests import catalog

pytestmark = pytest.mark.platforms

BLOCK = 64


def chained(**arguments):
    """A chain put together by hand, of parts that no alias has together."""
    method, refresh = arguments.pop("method", None), arguments.pop("refresh", 1)
    engine = precond.scale_by_kronecker(
        precond.outer_products(0.9, axes=[-1]),
        precond.inverse_root(power=0.5, method=method),
        momentum=optax.trace(0.9),
        refresh=refresh,
    )
    tx = precond.blocked(precond.graft(engine, optax.scale_by_rms()), otherwise=optax.identity(), **arguments)
    return optax.chain(optax.clip_by_global_norm(1.0), tx, optax.scale_by_learning_rate(1e-3))


ROOT = precond.newton(iterations=1)
BASIS = precond.Method("a step", None, lambda a, old, first: product(a, old))
PRODUCTS = {
    "shampoo": lambda **a: precond.shampoo(1e-3, method=ROOT, **a),
    "soap": lambda **a: precond.soap(1e-3, method=BASIS, **a),
    "kl_shampoo": lambda **a: precond.kl_shampoo(1e-3, method=ROOT, **a),
    "a chain": lambda **a: chained(method=ROOT, **a),
}
"""Of matrix products alone: XLA counts no decomposition, and one turn of a loop."""


def shapes(dtype="float32"):
    """Ragged blocks of several sizes, and a bias."""
    array = lambda *shape: jax.ShapeDtypeStruct(shape, dtype)  # noqa: E731
    layers = {f"layer_{i}": {"kernel": array(3 * BLOCK, 2 * BLOCK), "bias": array(BLOCK)} for i in range(3)}
    return layers | {"last": {"kernel": array(BLOCK, BLOCK + 24)}}


def on(devices, params):
    """Parameters on so many devices."""
    kinds = (AxisType.Auto,)
    mesh = jax.make_mesh((devices,), ("data",), axis_types=kinds, devices=jax.devices()[:devices])
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.device_put(jnp.zeros(x.shape, x.dtype), whole), params)


@pytest.fixture
def unrolled(monkeypatch):
    """Loops over a number of turns that is known, turn by turn: XLA counts one turn of a loop."""
    scan, fori_loop = jax.lax.scan, jax.lax.fori_loop

    def fori(first, last, body, carry, **given):
        return fori_loop(first, last, body, carry, **(given | {"unroll": True} if isinstance(last, int) else given))

    monkeypatch.setattr(jax.lax, "scan", functools.partial(scan, unroll=True))
    monkeypatch.setattr(jax.lax, "fori_loop", fori)


@functools.cache
def compiled(devices, name):
    tx, params = PRODUCTS[name](block_size=BLOCK, axis="data", refresh=1), on(devices, shapes())
    return jax.jit(tx.update).lower(params, jax.jit(tx.init)(params), params).compile()


def planned(devices, tx, params, platform="cpu"):
    return precond.plan(tx, params, mesh={"data": devices}, platform=platform)


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 8])
@pytest.mark.parametrize("make", PRODUCTS.values(), ids=PRODUCTS)
def test_the_bytes_planned_are_those_allocated(make, devices):
    tx, params = make(block_size=BLOCK, axis="data"), shapes("bfloat16")
    state = jax.jit(tx.init)(on(devices, params))
    held = {}
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        (here,) = [s.data.nbytes for s in x.addressable_shards if s.device == jax.devices()[0]]
        name, stacks = jax.tree_util.keystr(path), "stacks" in jax.tree_util.keystr(path)
        role = "statistics" if ".statistics" in name else "roots" if ".derived" in name else "momentum"
        held[role if stacks else "rest"] = held.get(role if stacks else "rest", 0) + here
    found = planned(devices, tx, params).bytes
    # Counts that belong to no block are a few bytes of one role or the other.
    assert sum(found.values()) == sum(held.values())
    assert found["roots"] == held["roots"] > 0
    assert {role: n for role, n in found.items() if n} == pytest.approx(held, abs=20)


HEAVY = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "devices"),
    [pytest.param(name, n, marks=HEAVY) for name in ("kl_shampoo", "shampoo", "soap", "a chain") for n in (1, 8)],
)
@pytest.mark.optimized
@pytest.mark.usefixtures("unrolled")
def test_the_operations_planned_are_those_that_xla_counts(name, devices):
    tx, params = PRODUCTS[name](block_size=BLOCK, axis="data", refresh=1), shapes()
    work = planned(devices, tx, params).work
    parts = [sum(work[part]) for part in ("statistics", "application", "rest", "at once")]
    assert min(parts) > 0
    counted = compiled(devices, name).cost_analysis()
    assert sum(parts) == pytest.approx(counted["flops"], rel=0.1)


@pytest.mark.optimized
@pytest.mark.usefixtures("unrolled")
@pytest.mark.parametrize(("count", "part", "repeated"), [pytest.param(0, "first", 4, marks=HEAVY), (5, "in turns", 1)])
def test_and_so_are_those_of_a_step_in_turns(count, part, repeated):
    # What the count is, XLA knows: it compiles the branch that is run, and no other. But it counts the body of a loop
    # once, and the first refresh is one over all turns.
    stacks = {"64x64": jnp.zeros((16, BLOCK, BLOCK))}
    root = precond.inverse_root(method=ROOT)
    tx = precond.scale_by_kronecker(precond.outer_products(), root, refresh=precond.every(4, stagger=True))
    state = tx.init(stacks)._replace(count=np.int32(count))

    def update(gradients, rest):
        return tx.update(gradients, rest._replace(count=state.count))

    compiled = jax.jit(update).lower(stacks, state).compile()
    work = precond.plan(tx, stacks, platform="cpu").work
    around = [sum(work[name]) for name in ("statistics", "application", "rest")]
    assert sum(around) + sum(work[part]) / repeated == pytest.approx(compiled.cost_analysis()["flops"], rel=0.1)


def test_a_schedule_is_planned_both_in_turns_and_at_once():
    params = {"kernel": jax.ShapeDtypeStruct((7 * BLOCK, 3 * BLOCK), "float32")}
    turns, at_once = (
        precond.plan(precond.shampoo(1e-3, block_size=BLOCK, method=precond.eigh(), refresh=refresh), params)
        for refresh in (precond.every(10, stagger=True), precond.every(10))
    )
    assert turns.staggered
    assert not at_once.staggered
    assert turns.periods == at_once.periods == (10,)
    for part in ("at once", "mean", "in turns"):
        a, b = turns.work[part], at_once.work[part]
        assert a.decompositions == b.decompositions > 0
        assert a.products == b.products > 0
    # 42 factors, of which 5 have their turn in the costliest step
    each = 9 * BLOCK**3
    found = [turns.work[part].decompositions for part in ("at once", "mean", "in turns")]
    assert found == [42 * each, math.ceil(4.2 * each), 5 * each]


DECOMPOSED = {
    "eigh": (precond.shampoo, precond.eigh, 9),
    "qr": (precond.soap, precond.qr, 8 / 3),
    "cholesky_qr": (precond.soap, precond.roots.cholesky_qr, 3 / 3 + 2),  # three, and two triangular systems,
}


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
@pytest.mark.parametrize(("alias", "method", "each"), DECOMPOSED.values(), ids=DECOMPOSED)
def test_decompositions_count_as_in_the_textbook_on_any_platform(alias, method, each, platform):
    params = {"kernel": jax.ShapeDtypeStruct((4 * BLOCK, BLOCK), "float32")}
    tx = alias(1e-3, block_size=BLOCK, method=method(), refresh=5)
    work = precond.plan(tx, params, platform=platform).work
    assert work["at once"].decompositions == pytest.approx(8 * each * BLOCK**3, rel=1e-5)
    # `eigh`, and a QR decomposition where columns may be lost. With `cholesky_qr` another QR decomposition completes
    # the first basis; with `qr` the one of every step does.
    first = 9 + 8 / 3 * (1 if method is precond.qr else 2) if alias is precond.soap else 0
    assert work["first"].decompositions == pytest.approx(8 * first * BLOCK**3, rel=1e-5)


def test_of_algorithms_that_the_platform_chooses_one_is_counted():
    params, tx = (
        shapes(),
        precond.shampoo(
            1e-3, block_size=BLOCK, method=precond.roots.by_platform(precond.composite(), cpu=precond.eigh())
        ),
    )
    decomposed = {p: precond.plan(tx, params, platform=p).work["at once"].decompositions for p in ("cpu", "cuda")}
    assert decomposed["cpu"] > decomposed["cuda"] == 0


GATHER = re.compile(r"= (?:\()?[fs]32\[([\d,]*)\]\S* (all-gather|all-reduce|all-to-all|reduce-scatter)(?:-start)?\(")


@pytest.mark.parametrize("name", ["kl_shampoo", pytest.param("a chain", marks=HEAVY)])
def test_the_bytes_on_the_wire_are_those_of_the_compiled_program(name):
    sent = {}
    for shape, kind in GATHER.findall(compiled(8, name).as_text()):
        times = 2 if kind == "all-reduce" else 1
        sent[kind] = sent.get(kind, 0) + times * 4 * math.prod(int(n) for n in shape.split(",") if n) * 7 // 8
    assert planned(8, PRODUCTS[name](block_size=BLOCK, axis="data"), shapes()).wire == sent
    assert set(sent) == {"all-gather", "all-reduce"}
    assert sent["all-reduce"] == 7  # how many blocks are not finite


def test_a_rounded_wire_carries_half():
    whole, half = (
        planned(8, precond.shampoo(1e-3, axis=precond.sharded("data", gather_dtype=wire)), shapes()).wire["all-gather"]
        for wire in (None, "bfloat16")
    )
    assert whole == 2 * half > 0


def test_stacks_and_what_pads_them():
    tx = precond.soap(1e-3, block_size=BLOCK, axis=precond.sharded("data", multiple=16))
    stacks = {s.shape: s for s in planned(8, tx, shapes()).stacks}
    assert {name: (s.blocks, s.padding) for name, s in stacks.items()} == {"64x64": (18, 14), "64x44": (2, 14)}
    assert stacks["64x64"].waste == 14 / 32


LONGEST = {"google_shampoo": HEAVY}
KINDS = catalog.DEFAULTS + catalog.RECIPES + catalog.AROUND + catalog.WHOLE


@pytest.mark.parametrize("case", [pytest.param(x, marks=LONGEST.get(x.name, ()), id=x.name) for x in KINDS])
def test_any_transformation_has_a_plan(case):
    params, tx = shapes(), case.make()
    found = precond.plan(tx, params)
    state = jax.tree.leaves(jax.eval_shape(tx.init, params))
    assert sum(found.bytes.values()) == sum(math.prod(x.shape) * x.dtype.itemsize for x in state)
    assert (found.loops > 0) == (case.name == "google_shampoo")  # whose power iteration stops when it may
    assert sum(sum(work) for work in found.work.values()) > 0


def test_nothing_is_allocated():
    # A petabyte of parameters, over more devices than there are.
    params = {f"layer_{i}": jax.ShapeDtypeStruct((2**22, 2**22), "float32") for i in range(16)}
    tx = precond.shampoo(1e-3, axis=precond.sharded("data", multiple=2**16))
    found = precond.plan(tx, params, mesh={"data": 2**16})
    assert found.stacks[0].blocks == 256 * 2**20
    assert found.bytes["roots"] >= 2 * 256 * 2**20 * 2**20 * 4 // 2**16


def test_seconds_are_work_over_rates():
    found = planned(8, precond.shampoo(1e-3, block_size=BLOCK, axis="data", method=precond.eigh()), shapes())
    rates = {"flops_per_s": 1e9, "decomposition_flops_per_s": 1e6, "wire_bytes_per_s": 1e3, "memory_bytes_per_s": 1e4}
    seconds, due = found.seconds(**rates), found.work["in turns"]
    assert seconds["refresh"] == due.products / 1e9 + due.decompositions / 1e6
    assert seconds["wire"] == sum(found.wire.values()) / 1e3
    numbers = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes()))
    assert seconds["memory"] == (2 * sum(found.bytes.values()) + 8 * numbers) / 1e4
    with pytest.raises(ValueError, match="decomposition_flops_per_s"):
        found.seconds(flops_per_s=1e9)
    with pytest.raises(ValueError, match="wire_bytes_per_s=0"):
        found.seconds(**rates | {"wire_bytes_per_s": 0})


def test_what_cannot_be_planned_says_why():
    with pytest.raises(TypeError, match=r"params= has a leaf 3 .*ShapeDtypeStruct"):
        precond.plan(optax.sgd(1.0), {"kernel": 3})
    with pytest.raises(ValueError, match="not an axis of the mesh"):
        precond.plan(precond.shampoo(1e-3, axis="model"), shapes(), mesh={"data": 8})
    with pytest.raises(ValueError, match="do not divide stacks"):
        precond.plan(precond.shampoo(1e-3, axis="data"), shapes(), mesh={"data": 256})
    with pytest.raises(ValueError, match=r"mesh\['data'\]=0"):
        precond.plan(optax.sgd(1.0), shapes(), mesh={"data": 0})
    with pytest.raises(ValueError, match="platform='banana': must be one of cpu, cuda, rocm, tpu"):
        precond.plan(optax.sgd(1.0), shapes(), platform="banana")


def test_further_arguments_of_an_update_are_shapes_too():
    from precond import layers

    params, x = {"kernel": jnp.ones((48, 32)), "bias": jnp.zeros(32)}, jnp.ones((8, 48))
    capture = layers.explicit({"": layers.dense()}, params)
    factors = layers.value_grad_factors(
        lambda p, x: capture.apply("", p, x @ p["kernel"] + p["bias"], x),
        lambda outputs, x: 0.5 * jnp.mean(jnp.sum(outputs**2, -1)),
        capture,
        fisher=layers.sampled(layers.gaussian()),
    )
    given = jax.eval_shape(lambda: factors(params, x, key=jax.random.key(0)))[2]
    found, without = (
        precond.plan(precond.kfac(1e-2, capture.layers), params, extra={"factors": f}) for f in (given, None)
    )
    assert [(s.shape, s.blocks) for s in found.stacks] == [("49x32", 1)]
    # A root of the inputs and the bias, and one of the outputs.
    assert found.work["application"].products == 2 * (49 * 49 * 32 + 49 * 32 * 32)
    assert sum(found.work["statistics"]) > sum(without.work["statistics"])

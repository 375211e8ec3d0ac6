"""The same trajectory in every kind of training loop."""

import functools

import chex
import jax
import optax
import pytest
from jax.sharding import PartitionSpec as P

import precond
from precond.engine import BlockedState
from precond.transforms import homes
from tests.mesh import loops

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.platforms]


@functools.cache
def expected():
    return loops.one_device()


def assert_same(actual, desired, tolerance=1e-12):
    chex.assert_trees_all_close(actual, desired, rtol=0, atol=tolerance)


# The same mechanism as one of the others; they wait for `make test-slow`.
ALIKE = {
    "auto, in context",
    "auto, given",
    "auto, initialised eagerly",
    "auto, fully sharded",
    "auto, fully sharded, in context",
    "auto, data and model",
    "auto, data and model, in context",
    "explicit",
    "explicit, scanned",
    "explicit, in context",
    "explicit, fully sharded, in context",
    "shard_map, explicit",
    "shard_map, scanned",
    "shard_map, state replicated",
    "shard_map, unchecked",
}
EACH = [pytest.param(f, id=name, marks=[pytest.mark.slow] * (name in ALIKE)) for name, f in loops.LOOPS.items()]


@pytest.mark.parametrize("loop", EACH)
def test_a_loop_changes_no_step(loop):
    assert_same(loop(loops.make), expected())


STACKED = precond.sharded(None, multiple=8)
OTHERS = {
    "soap": functools.partial(precond.soap, refresh=precond.every(2, stagger=True, delay=1, warmup=1)),
    "soap by rotations": functools.partial(
        precond.soap, refresh=precond.every(2, delay=1, warmup=1), method=precond.roots.rotations(group=3)
    ),
    "soap, rotated moments": functools.partial(
        precond.soap, refresh=precond.every(2, stagger=True, delay=1, warmup=1), transport=precond.roots.rotated()
    ),
    "shampoo by newton": functools.partial(precond.shampoo, method=precond.newton(), refresh=1),
    "shampoo by composite": functools.partial(precond.shampoo, method=precond.composite(), refresh=2),
    "kl_shampoo": functools.partial(precond.kl_shampoo, refresh=precond.every(3, stagger=True)),
    "kl_soap": functools.partial(precond.kl_soap, refresh=precond.every(2, stagger=True, delay=1, warmup=1)),
    "muon": precond.muon,
    "muon with normalized neurons": functools.partial(
        precond.muon, after=precond.transforms.normalize_neurons(), adam_learning_rate=0.02
    ),
}


@functools.cache
def alone(name):
    return loops.one_device(OTHERS[name](0.01, block_size=8, axis=STACKED))


NOT_LIKE_ANOTHER = ("soap, rotated moments", "kl_soap", "muon")


@pytest.mark.parametrize("loop", ["auto", pytest.param("shard_map", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in NOT_LIKE_ANOTHER)) for n in OTHERS]
)
def test_neither_does_it_with_other_parts(name, loop):
    make = functools.partial(OTHERS[name], 0.01, block_size=8)
    assert_same(loops.LOOPS[loop](lambda axis, mesh: make(axis=axis, mesh=mesh)), alone(name), 1e-11)


@pytest.mark.parametrize("name", ["kl_soap", pytest.param("soap, rotated moments", marks=pytest.mark.slow)])
def test_nor_does_a_second_axis_of_the_mesh_that_the_optimizer_is_not_told(name):
    make = functools.partial(OTHERS[name], 0.01, block_size=8)
    mesh = loops.mesh_of(shape=(4, 2), names=("data", "model"))
    actual = loops.jitted(lambda axis, mesh: make(axis=axis, mesh=mesh), mesh=mesh, context=True)
    assert_same(actual, alone(name), 1e-11)


def test_nor_with_bases_that_are_padded_to_one_size(monkeypatch):
    monkeypatch.setattr("precond.engine.choose_sizes.SIZES", 1)
    make = functools.partial(OTHERS["soap, rotated moments"], 0.01, block_size=8)
    expected = loops.one_device(make(axis=STACKED))
    assert_same(loops.LOOPS["auto"](lambda axis, mesh: make(axis=axis, mesh=mesh)), expected, 1e-11)


TOLD = "auto, fully sharded, told"
WHOLE = [pytest.param(f, id=n, marks=[pytest.mark.slow] * (n != TOLD)) for n, f in loops.LOOPS.items()]


@pytest.mark.parametrize("loop", WHOLE)
def test_nor_with_whole_matrices_of_unique_shapes_each_on_a_device_of_its_own(loop, monkeypatch):
    monkeypatch.setattr(homes, "LEAST", 1)
    make = functools.partial(precond.muon, 0.01, weight_decay=0.1)
    assert_same(loop(lambda axis, mesh: make(axis=axis, mesh=mesh)), loops.one_device(make(axis=STACKED)), 1e-11)


def without_vectors(make):
    """A vector's factor is of rank one at first: its ridge of 1e-12, or a basis of nothing, is rounding's to choose."""
    matrices = {"first": {"kernel": True, "bias": False}, "middle": True, "last": {"kernel": True}}
    return lambda *rate, **where: optax.masked(make(*rate, **where), matrices)


META = {"betas": (0.9, 0.99), "max_preconditioner_dim": 8, "precondition_frequency": 2}
RECIPES = {
    "google": functools.partial(precond.recipes.google_shampoo, block_size=8, start_preconditioning_step=2),
    "meta": without_vectors(functools.partial(precond.recipes.meta_shampoo, **META)),
    "meta soap": without_vectors(functools.partial(precond.recipes.meta_soap, **META)),
    # Of sides up to 16 alone the factors are of full rank.
    "official soap": functools.partial(precond.recipes.official_soap, precondition_frequency=2, max_precond_dim=16),
}


@pytest.mark.parametrize(
    "make", [pytest.param(f, id=n, marks=[pytest.mark.slow] * (n != "google")) for n, f in RECIPES.items()]
)
def test_nor_with_a_recipe(make):
    actual = loops.LOOPS["auto"](lambda axis, mesh: make(0.01, axis=axis, mesh=mesh))
    assert_same(actual, loops.one_device(make(0.01, axis=STACKED)), 1e-11)
    state = make(0.01, axis="data").init(loops.put(loops.parameters(), loops.mesh_of()))
    nodes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, BlockedState))
    stacks = [x for node in nodes if isinstance(node, BlockedState) for x in jax.tree.leaves(node.stacks) if x.ndim]
    assert stacks
    assert all(len(x.addressable_shards[0].data) * 8 == len(x) for x in stacks)


INITIALISED = [
    (kind, context, given, eager)
    for kind in (loops.AUTO, loops.EXPLICIT)
    for context in (False, True)
    for given in (False, True)
    for eager in (False, True)
]


@pytest.mark.parametrize(("kind", "context", "given", "eager"), INITIALISED)
def test_state_is_born_sharded(kind, context, given, eager):
    mesh = loops.mesh_of(kind)
    with loops.context_of(mesh, context):
        tx = loops.make("data", mesh if given else None)
        params = loops.put(loops.parameters(), mesh)
        state = tx.init(params) if eager else jax.jit(tx.init)(params)
    stacks = [x for x in jax.tree.leaves(state[0].stacks) if x.ndim]
    assert len(stacks) > 10
    for x in stacks:
        assert x.sharding.spec[0] in ("data", ("data",))
        assert x.addressable_shards[0].data.shape[0] == x.shape[0] // 8


@pytest.mark.parametrize("kind", [loops.AUTO, loops.EXPLICIT])
@pytest.mark.parametrize("name", ["muon", pytest.param("kl_soap", marks=pytest.mark.slow)])
def test_and_stays_so_with_an_eighth_on_each_device(name, kind):
    mesh = loops.mesh_of(kind)
    with loops.context_of(mesh, True):
        tx = OTHERS[name](0.01, block_size=8, axis="data")
        params = loops.put(loops.parameters(), mesh)
        state = jax.jit(tx.init)(params)
        _, after = jax.jit(tx.update)(params, state, params)
    stacks = [x for x in jax.tree.leaves(after[0].stacks) if x.ndim]
    assert stacks
    assert all(8 * x.addressable_shards[0].data.size == x.size for x in stacks)


def test_an_axis_that_the_mesh_does_not_have_is_an_error():
    params = loops.put(loops.parameters(), loops.mesh_of())
    with pytest.raises(ValueError, match=r"axis=\('batch',\) is not an axis of the mesh, which has \('data',\)"):
        loops.make("batch").init(params)


def test_so_is_a_number_of_devices_that_does_not_divide_the_stacks():
    params = loops.put(loops.parameters(), loops.mesh_of(shape=(6,)))
    with pytest.raises(ValueError, match=r"has 6 devices, which do not divide stacks of a multiple of 8 blocks"):
        loops.make("data").init(params)
    assert loops.make(precond.sharded("data", multiple=6)).init(params)


def test_and_axes_of_two_types():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(loops.AUTO, loops.EXPLICIT))
    with pytest.raises(ValueError, match="have different types"):
        loops.make(("data", "model"), mesh).init(loops.parameters())


def test_and_a_state_with_stacks_of_another_length():
    mesh = loops.mesh_of()
    params = loops.parameters()
    state = loops.make(precond.sharded(None, multiple=24)).init(params)
    with jax.set_mesh(mesh), pytest.raises(ValueError, match=r"has a stack of \d+ blocks, where \d+, or \d+ on each"):
        jax.shard_map(
            lambda p, s: loops.make("data").update(p, s, p)[0], in_specs=P(), out_specs=P(), axis_names={"data"}
        )(params, state)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((),), ValueError, r"axis=\(\): pass the name of a mesh axis"),
        ((3,), TypeError, "axis=3"),
        (("data", 0), ValueError, "multiple=0"),
        (("data", 8, "int8"), TypeError, "gather_dtype='int8': its numbers are not of floating point"),
    ],
)
def test_how_stacks_are_sharded_is_checked(arguments, error, message):
    given = dict(zip(("axis", "multiple", "gather_dtype"), arguments, strict=False))
    with pytest.raises(error, match=message):
        precond.sharded(**given)

"""States that are born divided in loops which say all shardings beforehand: Flax's and MaxText's."""

import contextlib
import functools
import warnings

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from flax.training.train_state import TrainState
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import precond

AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit
OPTIMIZERS = {
    "shampoo": lambda **a: precond.shampoo(1e-3, block_size=16, **a),
    "soap": lambda **a: precond.soap(1e-3, block_size=16, **a),
    "kl_shampoo in a chain": lambda **a: optax.chain(
        optax.clip_by_global_norm(1.0), precond.kl_shampoo(1e-3, block_size=16, **a)
    ),
}


class Model(nn.Module):
    """Dense layers whose parameters have logical names of axes."""

    @nn.compact
    def __call__(self, x):
        for i, (width, names) in enumerate([(64, ("embed", "mlp")), (32, ("mlp", "embed"))]):
            init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), names)
            x = nn.Dense(width, kernel_init=init, name=f"dense_{i}")(x)
        return x


RULES = (("embed", None), ("mlp", "data"))


def mesh_of(kind=AUTO):
    return jax.make_mesh((8,), ("data",), axis_types=(kind,))


def make(tx):
    """A training state, as lm1b and MaxText make it."""
    model = Model()

    def born(key):
        params = nn.unbox(model.init(key, jnp.ones((1, 32))))["params"]
        return TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    return model, born


def shardings_of(model, born, tx, mesh):
    """All shardings of the training state, from the model's metadata; those of the optimizer's are asked for."""
    boxed = jax.eval_shape(lambda key: model.init(key, jnp.ones((1, 32))), jax.random.key(0))["params"]
    params = nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, RULES)
    shapes = jax.eval_shape(born, jax.random.key(0))
    placed = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes.params, params)
    whole = jax.tree.map(lambda _: NamedSharding(mesh, P()), shapes)
    return whole.replace(params=params, opt_state=precond.state_shardings(tx, placed, mesh))


@pytest.mark.parametrize(
    "make_tx", [pytest.param(f, id=n, marks=[pytest.mark.slow] * (n == "soap")) for n, f in OPTIMIZERS.items()]
)
def test_a_train_state_is_born_divided_and_stays_so(make_tx):
    mesh = mesh_of()
    tx = make_tx(axis="data")
    model, born = make(tx)
    with jax.set_mesh(mesh):
        shardings = shardings_of(model, born, tx, mesh)
        state = jax.jit(born, out_shardings=shardings)(jax.random.key(0))

        @jax.jit
        def step(state):
            return state.apply_gradients(grads=jax.tree.map(jnp.ones_like, state.params))

        for _ in range(2):
            kept = jax.tree.leaves(state.opt_state)
            mine = sum(x.addressable_shards[0].data.nbytes for x in kept)
            counts = sum(x.nbytes for x in kept if x.ndim < 2)
            # Moments of parameters that are whole on every device are whole too; all else is an eighth.
            assert mine <= sum(x.nbytes for x in kept) / 8 + counts
            state = step(state)


@pytest.mark.parametrize("unbox", [nn.unbox, lambda state: state], ids=["bare", "in boxes"])
def test_names_of_axes_divide_the_state_in_a_loop_that_knows_nothing_of_it(unbox):
    """MaxText's own loop, which is the same for every optimizer of Optax."""
    mesh, model = mesh_of(), Model()
    tx = precond.shampoo(1e-3, block_size=16, axis="data")

    def born(key):
        return TrainState.create(apply_fn=model.apply, params=model.init(key, jnp.ones((1, 32)))["params"], tx=tx)

    with nn.logical_axis_rules(RULES):
        names = nn.get_partition_spec(jax.eval_shape(born, jax.random.key(0)))
    shardings = nn.logical_to_mesh_sharding(names, mesh, RULES)
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        state = unbox(jax.jit(born, out_shardings=shardings)(jax.random.key(0)))

        @functools.partial(jax.jit, out_shardings=shardings)
        def step(state):
            return state.apply_gradients(grads=jax.tree.map(jnp.ones_like, state.params))

        before = jax.tree.structure(state)
        for _ in range(2):
            stacks = [x for x in jax.tree.leaves(state.opt_state[0].stacks) if x.ndim]
            assert all(x.sharding.spec[0] in ("data", ("data",)) for x in stacks)
            state = step(state)
        assert jax.tree.structure(state) == before
        assert precond.metrics(state.opt_state)["blocks/skipped"] == 0


LISTED = (("embed", None), ("mlp", ("data", "tensor")))
NAMED = {  # sizes of a mesh, its axes, the axes of the optimizer, rules, whether they are known to init, what it says
    "rules come later": ((8,), ("data",), "data", RULES, False, "no rules are known here"),
    "rules come later, an axis of size 1": ((8, 1), ("data", "tensor"), "data", RULES, False, None),
    "rules come later, two axes": ((4, 2), ("data", "tensor"), ("data", "tensor"), RULES, False, None),
    "a rule of several axes": ((4, 2), ("data", "tensor"), "data", LISTED, True, "none of the rules gives this axis"),
    "a rule of several axes, one of size 1": ((8, 1), ("data", "tensor"), "data", LISTED, True, None),
    "a rule of several axes, two axes": ((4, 2), ("data", "tensor"), ("data", "tensor"), LISTED, True, None),
}


@pytest.mark.parametrize(("sizes", "names", "axis", "rules", "known", "words"), NAMED.values(), ids=NAMED)
def test_names_of_axes_divide_the_state_or_init_says_that_they_do_not(sizes, names, axis, rules, known, words):
    """Flax's lm1b calls `jax.eval_shape` where no rules are known."""
    mesh = jax.make_mesh(sizes, names, axis_types=(AUTO,) * len(sizes))
    tx = precond.shampoo(1e-3, block_size=16, axis=axis)
    boxed = jax.eval_shape(lambda key: Model().init(key, jnp.ones((1, 32))), jax.random.key(0))["params"]
    said = pytest.warns(UserWarning, match=words) if words else contextlib.nullcontext()
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules if known else ()), said:
        shapes = jax.eval_shape(tx.init, boxed)
    shardings = nn.logical_to_mesh_sharding(nn.get_partition_spec(shapes), mesh, rules)
    shares = [s.shard_shape(x.shape)[0] / x.shape[0] for s, x in stacked(shardings, shapes)]
    assert shares == [1.0 if words else 1 / 8] * len(shares)


def stacked(shardings, state):
    """The shardings of all stacks of a state that has boxes, and what is in these."""
    pairs = zip(jax.tree.leaves(shardings[0].stacks), jax.tree.leaves(nn.unbox(state)[0].stacks), strict=True)
    return [(s, x) for s, x in pairs if x.ndim]


@pytest.mark.parametrize("kind", [AUTO, EXPLICIT], ids=["auto", "explicit"])
def test_the_shardings_are_those_that_init_gives_by_itself(kind):
    mesh = mesh_of(kind)
    tx = precond.shampoo(1e-3, block_size=8, axis="data")
    specs = {"kernel": P("data"), "table": {"embedding": P(None, "data")}, "bias": P()}
    shapes = {"kernel": (16, 8), "table": {"embedding": (5, 8)}, "bias": (8,)}
    params = jax.tree.map(
        lambda s, spec: jax.device_put(jnp.ones(s), NamedSharding(mesh, spec)),
        shapes,
        specs,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    found = precond.state_shardings(tx, params)
    state = jax.jit(tx.init, out_shardings=found)(params)
    stacks = [x for x in jax.tree.leaves(state[0].stacks) if x.ndim]
    assert all(x.sharding.is_equivalent_to(NamedSharding(mesh, P("data")), x.ndim) for x in stacks)
    moments = state[0].otherwise.inner_state.inner
    tables = [x for x in jax.tree.leaves(moments) if x.shape == (5, 8)]
    assert tables
    assert all(x.addressable_shards[0].data.shape == (5, 1) for x in tables)
    own = jax.tree.map(lambda x: x.sharding, jax.jit(tx.init)(params)[0].stacks)
    same = jax.tree.map(lambda a, b, x: a.is_equivalent_to(b, x.ndim), own, found[0].stacks, state[0].stacks)
    assert all(jax.tree.leaves(same))


def test_a_state_that_comes_whole_is_reported_where_arrays_tell():
    mesh = mesh_of(EXPLICIT)
    tx = precond.shampoo(1e-3, block_size=8, axis="data")
    params = {"kernel": jax.device_put(jnp.ones((64, 8)), NamedSharding(mesh, P()))}
    state = jax.jit(tx.init, out_shardings=NamedSharding(mesh, P()))(params)
    with pytest.warns(UserWarning, match=r"whole on every device, although axis=\('data',\) divides them"):
        jax.jit(tx.update)(params, state, params)


def test_a_divided_state_is_not_reported_where_another_axis_of_the_mesh_is_explicit():
    kinds = (jax.sharding.AxisType.Auto, EXPLICIT)
    tx, params = precond.shampoo(1e-3, axis="data"), {"kernel": jnp.ones((16, 8))}
    with jax.set_mesh(jax.make_mesh((4, 2), ("data", "model"), axis_types=kinds)):
        jax.jit(tx.update)(params, jax.jit(tx.init)(params), params)  # each warning is an error


def test_a_state_that_comes_whole_is_reported_on_automatic_meshes_where_it_can_be_seen():
    mesh = mesh_of()
    tx = precond.shampoo(1e-3, block_size=8, axis="data")
    params = {"kernel": jax.device_put(jnp.ones((64, 8)), NamedSharding(mesh, P()))}
    state = jax.jit(tx.init, out_shardings=NamedSharding(mesh, P()))(params)
    assert precond.metrics(state)["blocks/share"] == 1
    with pytest.warns(UserWarning, match="were whole on every device, and axis= divides them"):
        _, state = tx.update(params, state, params)
    assert precond.metrics(state)["blocks/share"] < 0.15
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tx.update(params, tx.init(params), params)
    assert "blocks/share" not in precond.metrics(tx.init({"kernel": jnp.ones((64, 8))}))


def test_what_cannot_be_said_is_an_error():
    params = {"kernel": jax.ShapeDtypeStruct((8, 8), "float32")}
    with pytest.raises(ValueError, match="There is no mesh: pass mesh="):
        precond.state_shardings(precond.shampoo(1e-3, axis="data"), params)
    with pytest.raises(TypeError, match=r"mesh='data'"):
        precond.state_shardings(precond.shampoo(1e-3), params, "data")
    with pytest.raises(ValueError, match="is not an axis of the mesh"):
        precond.state_shardings(precond.shampoo(1e-3, axis="model"), params, mesh_of())
    with pytest.raises(TypeError, match="without shape and dtype"):
        precond.state_shardings(precond.shampoo(1e-3), {"kernel": 1.0}, mesh_of())


def test_parameters_of_another_mesh_are_refused():
    meshes = [jax.make_mesh((8,), (name,), axis_types=(jax.sharding.AxisType.Auto,)) for name in ("model", "data")]
    sharding = jax.sharding.NamedSharding(meshes[0], jax.sharding.PartitionSpec(None, "model"))
    params = {"kernel": jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=sharding)}
    with pytest.raises(ValueError, match=r"lies on the axis 'model', but mesh= has the axes .*: pass the mesh"):
        precond.state_shardings(precond.shampoo(1e-3), params, meshes[1])

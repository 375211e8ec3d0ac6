"""A state knows its parameters: one of others is refused where numbers are known, and never used where they are not."""

import itertools
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import precond
from precond.blocks import STARTS, block_ids_of, default_views, fingerprint, hashed, layout_of, ragged
from precond.blocks.views import tensors
from tests import catalog
from tests.checkpoint.models import gradients, parameters, renamed, run
from tests.mesh import loops

BLOCKED = catalog.DEFAULTS + catalog.RECIPES


def resorted():
    """Parameters, and the same with a name that sorts elsewhere."""
    params = parameters()
    return params, renamed(params, a="z")


def relabelled(tx, state, params):
    """What a checkpoint gives that is restored by the shapes of other parameters: the same arrays in the new tree."""
    return jax.tree.unflatten(jax.tree.structure(tx.init(params)), jax.tree.leaves(state))


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("block_size", [None, 5, ragged(5)], ids=str)
@pytest.mark.parametrize("views", [default_views, tensors()], ids=["default", "tensors"])
def test_owners_say_where_every_block_begins(views, block_size, multiple):
    # Definition: every entry holds its own place, and blocks are packed.
    tree = {"a": np.zeros((12, 7)), "b": np.zeros((2, 7, 12)), "c": np.zeros((7, 12)), "d": np.zeros((3, 3, 4, 7))}
    layout = layout_of(tree, views, block_size, multiple)
    leaves = [np.arange(x.size, dtype=np.float32).reshape(x.shape) + 1000 * i for i, x in enumerate(tree.values())]
    stacks, seen = layout.pack(leaves), set()
    for group in layout.groups:
        for m in group.members:
            tensor = np.asarray(m.read(leaves, np.float32))
            for name, rows in block_ids_of(layout).items():
                mine = rows[:, 0] == hashed(layout.paths[m.leaf])
                numbers = rows[mine][:, STARTS - 1]
                assert numbers.tolist() == list(range(len(numbers)))
                starts = rows[mine][:, STARTS:]
                grid = len(np.unique(starts, axis=0))
                for number, start, block in zip(numbers, starts, np.asarray(stacks[name])[mine], strict=True):
                    assert block.flat[0] == tensor[(number // grid, *start)]
                    seen.add(block.flat[0])
    assert len(seen) == sum(layout.blocks.values())
    for name, rows in block_ids_of(layout).items():
        assert not rows[layout.blocks[name] :].any()
        assert rows.shape[0] == layout.stacks[name].shape[0]


def test_a_fingerprint_depends_on_names_shapes_cuts_and_nothing_else():
    def of(tree, block_size=8, multiple=1):
        return fingerprint(layout_of(tree, default_views, block_size, multiple))

    tree = {"a": np.zeros((12, 8)), "b": np.zeros((8, 12))}
    assert of(tree) == of(tree, multiple=8) == of(jax.tree.map(lambda x: x.astype(np.float16), tree))
    others = [of(renamed(tree, a="z")), of(renamed(tree, b="bb")), of(tree, 4), of(tree | {"c": np.zeros((8, 12))})]
    others += [of({"a": tree["b"], "b": tree["a"]}), of({"a": np.zeros((13, 8)), "b": tree["b"]})]
    assert len({of(tree), *others}) == 1 + len(others)


def test_very_long_stacks_cost_nothing_while_they_are_planned():
    layout = layout_of({"a": jax.ShapeDtypeStruct((2**14, 16, 2**15), "float32")}, default_views, 8)
    rows = jax.eval_shape(lambda: block_ids_of(layout))
    assert {name: x.shape for name, x in rows.items()} == {"8x8": (2**27, 5)}


def test_long_stacks_have_the_same_owners_as_short_ones(monkeypatch):
    layout = layout_of({"a": np.zeros((12, 7)), "b": np.zeros((3, 12, 7))}, default_views, ragged(5), 4)
    expected = block_ids_of(layout)
    monkeypatch.setattr("precond.blocks.block_ids._LARGE", 0)
    for name, rows in block_ids_of(layout).items():
        assert isinstance(rows, jax.Array)
        np.testing.assert_array_equal(rows, expected[name])


# What accumulates takes its first step in the second call.
LATE = [catalog.find(name) for name in ("kfac", "ekfac", "adascale_shampoo")]
# One check in `blocked` refuses for all of them; aliases with other states and one recipe show that it is there.
SHOWN = ("shampoo", "kl_soap", "muon", "meta_soap")
CASES = [pytest.param(x, marks=[pytest.mark.slow] * (x.name not in SHOWN)) for x in (*BLOCKED, *LATE)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_state_whose_parameters_were_renamed_is_refused_and_its_own_is_not(case):
    tx, (params, others) = case.make(), resorted()
    state = relabelled(tx, tx.init(params), others)
    for _ in range(2):
        updates, after = tx.update(gradients(0, others), tx.init(others), others)
        assert precond.metrics(after)["blocks/foreign"] == 0
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(updates))
        with pytest.raises(ValueError, match=r"state= is of other parameters.*'b/(kernel|bias)' of shape"):
            tx.update(gradients(0, others), state, others)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("shampoo", {}),
        ("muon", {}),
        pytest.param("google_shampoo", {"start_preconditioning_step": 0}, marks=pytest.mark.slow),
        ("meta_soap", {}),
    ],
)
def test_under_jit_it_moves_to_infinity_and_is_counted(name, given):
    tx, (params, others) = catalog.find(name).make(**given), resorted()
    state, update = relabelled(tx, tx.init(params), others), jax.jit(tx.update)
    updates, state = update(gradients(0, others), state, others)
    assert precond.metrics(state)["blocks/foreign"] == 1
    for layer in others:
        assert not np.isfinite(updates[layer]["kernel"]).any()
    updates, state = update(gradients(0, others), tx.init(others), others)
    assert precond.metrics(state)["blocks/foreign"] == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(updates))


def test_before_the_step_of_a_switch_too():
    """Google's Shampoo has a momentum of its graft alone in the first steps."""
    tx = precond.transforms.switch(5, optax.scale(-0.1), precond.shampoo(0.1))
    params, others = resorted()
    foreign = relabelled(tx, tx.init(params), others)
    check_infinite_and_counted(tx, gradients(0, others), foreign, others)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["shampoo", "muon"])
def test_a_state_in_half_precision_is_refused_and_says_how_to_widen_it(name, dtype):
    tx, (params, _) = catalog.find(name).make(), resorted()
    state, grads = tx.init(params), gradients(0, params)
    half = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, state)
    for update in (tx.update, jax.jit(tx.update)):
        with pytest.raises(ValueError, match=rf"state= has '.*' in {dtype}, and it must be float32. Cast the state"):
            update(grads, half, params)
    update, widened = jax.jit(tx.update), jax.tree.map(lambda x, y: x.astype(y.dtype), half, state)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(update(grads, widened, params)[0]))


def check_infinite_and_counted(tx, gradients, foreign, params):
    """Under jit all updates by a foreign state are infinite and counted; updates by its own state are finite."""
    for update, state, is_foreign in ((jax.jit(tx.update), foreign, True), (tx.update, tx.init(params), False)):
        updates, after = update(gradients, state, params)
        assert all(np.isfinite(x).all() != is_foreign for x in jax.tree.leaves(updates))
        assert all(np.isfinite(x).any() != is_foreign for x in jax.tree.leaves(updates))
        assert precond.metrics(after)["blocks/foreign"] == is_foreign


def without_blocks(names, kernel=True):
    """Embeddings and norms by name, of one shape each, and perhaps one matrix."""
    rng = np.random.default_rng(5)
    tree = {name: {"embedding": rng.standard_normal((9, 4), np.float32)} for name in names}
    tree["norm"] = {"scale": rng.standard_normal(6, np.float32)}
    return tree | ({"dense": {"kernel": rng.standard_normal((4, 6), np.float32)}} if kernel else {})


@pytest.mark.parametrize(
    "kernel", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["beside a matrix", "alone"]
)
@pytest.mark.parametrize(
    "name", ["shampoo", "muon", *(pytest.param(x, marks=pytest.mark.slow) for x in ("soap", "kl_shampoo", "kl_soap"))]
)
def test_a_renamed_parameter_without_blocks_is_found(name, kernel):
    tx = catalog.find(name).make()
    params, others = without_blocks("ab", kernel), without_blocks("bc", kernel)
    state, g = relabelled(tx, tx.init(params), others), gradients(0, others)
    with pytest.raises(ValueError, match="the parameters without blocks have other paths"):
        tx.update(g, state, others)
    check_infinite_and_counted(tx, g, state, others)


WINDOWS = {
    "mfac": precond.mfac(1e-2, window=2),
    "sparse mfac": precond.mfac(1e-2, window=2, density=0.5),
    "neumann": precond.neumann(1e-2),
}


@pytest.mark.parametrize(
    "name", ["mfac", *(pytest.param(x, marks=pytest.mark.slow) for x in ("sparse mfac", "neumann"))]
)
def test_states_without_blocks_know_their_parameters_too(name):
    tx, (params, others) = WINDOWS[name], resorted()
    foreign, g = relabelled(tx, tx.init(params), others), gradients(0, others)
    with pytest.raises(ValueError, match=r"where 'b/bias' belongs, it has one of another path"):
        tx.update(g, foreign, others)
    check_infinite_and_counted(tx, g, foreign, others)


# Whether a state of `shampoo(1e-2)` is taken by another one, and what it becomes in `adopt`.
CHANGES = {
    "learning rate": ({"learning_rate": 1.0, "weight_decay": 0.1}, None),
    "decays": ({"b1": 0.5, "b2": 0.999}, None),
    "damping, method and refresh": ({"damping": 1e-3, "method": precond.newton(), "refresh": 5}, None),
    "the same power": ({"power": 1 / 3}, None),
    "another power": ({"power": 0.5}, "roots of the power 0.5 for blocks of 2 axes"),
    "sums": ({"b2": 1.0}, "sums of factors, sums of squares"),
    "another bias": (
        {"magnitude": precond.transforms.scale_by_diagonal(0.95, eps=1e-15)},
        "averages of squares with the bias of their start",
    ),
}


@pytest.fixture(scope="module")
def shampoos():
    params = parameters()
    return params, run(precond.shampoo(1e-2), params)[0]


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_the_meaning_of_a_state_is_refused_and_nothing_else(change, shampoos):
    (params, state), (given, meaning) = shampoos, CHANGES[change]
    tx, g = precond.shampoo(**{"learning_rate": 1e-2} | given), gradients(0, parameters())
    if meaning is None:
        assert precond.metrics(tx.update(g, state, params)[1])["blocks/foreign"] == 0
        return
    with pytest.raises(ValueError, match=rf"state= is of another power=.*{meaning}.*adopt"):
        tx.update(g, state, params)
    for old in (state, precond.checkpoints.by_path(precond.shampoo(1e-2), params, state)):
        adopted = precond.checkpoints.adopt(tx, params, old)
        places = adopted.partly["a/kernel"]
        assert any("/roots/" in x for x in places)
        assert any("/nu" in x for x in places)
        assert not any("/momentum/ema" in x for x in places)
        assert precond.metrics(tx.update(g, adopted.state, params)[1])["blocks/foreign"] == 0


def test_a_state_is_refused_after_others_were_accepted():
    tx, (params, others) = precond.shampoo(1e-2), resorted()
    state = foreign = relabelled(tx, tx.init(params), others)
    mine = tx.init(others)
    for step in range(3):
        _, mine = tx.update(gradients(step, others), mine, others)
    for state in (foreign, foreign):
        with pytest.raises(ValueError, match="other parameters"):
            tx.update(gradients(0, others), state, others)
    _, last = tx.update(gradients(0, params), tx.init(params), params)
    with pytest.raises(ValueError, match="other parameters"):  # the very arrays that the last update returned
        tx.update(gradients(0, others), relabelled(tx, last, others), others)


def test_names_that_are_the_same_in_another_tree_are_no_difference():
    tx, params = precond.shampoo(1e-2), parameters()
    state = tx.init(nn.FrozenDict(params) if hasattr(nn, "FrozenDict") else params)
    boxed = jax.tree.map(lambda x: nn.Partitioned(x, (None,) * x.ndim), params)
    for same in (tx.init(boxed), state):
        after = tx.update(gradients(0, params), relabelled(tx, same, params), params)[1]
        assert precond.metrics(after)["blocks/foreign"] == 0


@pytest.mark.parametrize("how", [lambda tx: tx.update, lambda tx: jax.jit(tx.update)], ids=["eager", "jit"])
def test_one_parameter_more_or_less_and_another_block_size_are_named(how):
    params = parameters()
    more = params | {"d": {"kernel": np.ones((12, 8), np.float32), "bias": np.ones(8, np.float32)}}
    longer = params | {"c": {"kernel": np.ones((10, 8), np.float32), "bias": np.ones(8, np.float32)}}
    tx = precond.shampoo(1e-2)
    for own, other, says in [
        (more, params, r"it has 3 blocks 12x8, and 4 are needed"),
        (params, more, r"it has 4 blocks 12x8, and 3 are needed"),
        (longer, params, r"it has no blocks 10x8, which 'c/kernel' is cut into"),
    ]:
        with pytest.raises(ValueError, match=says):
            how(tx)(gradients(0, own), tx.init(other), own)
    state = precond.shampoo(1e-2, block_size=4).init(params)
    with pytest.raises(ValueError, match=r"it has no blocks 12x8, which 'a/kernel' is cut into, but 4x4"):
        how(tx)(gradients(0, params), state, params)


def test_the_same_blocks_cut_in_another_way_are_refused():
    params = {"a": {"kernel": np.ones((12, 8), np.float32)}}
    turned = {"a": {"kernel": np.ones((8, 12), np.float32)}}
    tx = precond.shampoo(1e-2, block_size=4)
    with pytest.raises(ValueError, match=r"'a/kernel' of shape \(8, 12\) has another shape, or is read in another way"):
        tx.update(gradients(0, turned), tx.init(params), turned)


def optimizers():
    """All that have a name, those of layers included."""
    params = parameters()
    kinds = {name: precond.layers.dense() for name in params}
    layers = precond.layers.explicit(kinds, params).layers
    made = {case.name: case.make() for case in BLOCKED + catalog.WHOLE}
    made |= {"kfac": precond.kfac(1e-2, layers), "ekfac": precond.ekfac(1e-2, layers)}
    return made | {"adamw": optax.adamw(1e-3), "lion": optax.lion(1e-3)}


# Each optimizer is given the state of the one that follows it in the list, or those of all others.
@pytest.mark.parametrize("following", [1, pytest.param(None, marks=pytest.mark.slow)], ids=["of the next", "of all"])
@pytest.mark.usefixtures("x64")
def test_the_state_of_another_optimizer_says_whose_it_is(following):
    params = parameters()
    made = optimizers()
    states = {name: jax.eval_shape(tx.init, params) for name, tx in made.items()}
    for (i, (name, tx)), (j, (other, state)) in itertools.product(enumerate(made.items()), enumerate(states.items())):
        if name == other or name in ("adamw", "lion"):
            continue
        if following is not None and (j - i) % len(made) > following:
            continue
        extra = {"factors": None} if "kfac" in name else {}
        with pytest.raises(ValueError, match=r"^state=") as error:
            jax.eval_shape(lambda g, s, tx=tx, extra=extra: tx.update(g, s, g, **extra), params, state)
        owner = "kl_soap" if other == "nvidia_kl_soap" else other  # of the same parts
        if {name, other} != {"kl_soap", "nvidia_kl_soap"}:
            assert f"{owner}, as it seems, and not of precond." in str(error.value)
        assert "'" in str(error.value)  # the name of the first array that differs


def save(path, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path / "run", tree)


def restore(path, target=None):
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path / "run", target)


def test_a_checkpoint_restored_for_other_parameters_is_refused(tmp_path):
    tx, (params, others) = precond.muon(1e-2, otherwise=optax.identity()), resorted()
    save(tmp_path, run(tx, params)[0])
    state = restore(tmp_path, jax.eval_shape(tx.init, others))
    with pytest.raises(ValueError, match="state= is of other parameters"):
        tx.update(gradients(0, others), state, others)


def test_a_checkpoint_restored_without_a_target_says_so(tmp_path):
    tx, params = precond.shampoo(1e-2), parameters()
    state = run(tx, params)[0]
    save(tmp_path, state)
    plain = restore(tmp_path)
    with pytest.raises(
        ValueError, match=r"in other containers, as a checkpoint has that was restored without a target"
    ):
        tx.update(gradients(0, params), plain, params)
    adopted = precond.checkpoints.adopt(tx, params, plain)
    chex.assert_trees_all_equal(adopted.state, state)


def test_on_a_mesh_every_device_refuses_and_owners_are_divided():
    mesh = loops.mesh_of()
    tx, (params, others) = loops.make(), resorted()
    with jax.set_mesh(mesh):
        state = jax.jit(tx.init)(params)
        block_ids = state[0].stacks.block_ids
        assert all(x.sharding.spec == jax.sharding.PartitionSpec("data") for x in block_ids.values())
        assert all(x.shape[0] % 8 == 0 for x in block_ids.values())
        state = jax.tree.unflatten(jax.tree.structure(jax.eval_shape(tx.init, others)), jax.tree.leaves(state))
        updates, state = jax.jit(tx.update)(gradients(0, others), state, others)
    assert not np.isfinite(updates["z"]["kernel"]).any()
    assert precond.metrics(state)["blocks/foreign"] == 1


def test_mapped_models_each_know_their_parameters():
    tx, (params, others) = precond.shampoo(1e-2), resorted()

    def several(tree):
        return jax.tree.map(lambda x: jnp.stack([x, x]), tree)

    state = jax.vmap(tx.init)(several(params))
    updates, state = jax.jit(jax.vmap(tx.update))(several(params), state, several(params))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(updates))
    state = jax.tree.unflatten(jax.tree.structure(jax.vmap(tx.init)(several(others))), jax.tree.leaves(state))
    updates, state = jax.jit(jax.vmap(tx.update))(several(others), state, several(others))
    assert not np.isfinite(updates["z"]["kernel"]).any()
    assert precond.metrics(state)["blocks/foreign"] == 1


def test_every_array_of_a_state_is_a_scalar_or_has_the_length_of_a_stack():
    tx = precond.muon(1e-2, otherwise=optax.identity(), block_size=4, axis=precond.sharded(None, multiple=8))
    state = tx.init(parameters())
    assert {x.shape[0] % 8 for x in jax.tree.leaves(state) if x.ndim} == {0}
    assert math.prod(x.ndim for x in jax.tree.leaves(state[0].stacks.block_ids)) == 2 ** len(state[0].stacks.block_ids)


WRAPPERS = {
    "accumulate": lambda tx: precond.accumulate(tx, 2),
    "rounding": precond.transforms.with_stochastic_rounding,
    "differenced": precond.large_batches.differenced,
    "chain": lambda tx: optax.chain(optax.clip(1.0), tx),
    "levenberg_marquardt": lambda tx: precond.transforms.levenberg_marquardt(lambda damping: tx),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_says_whose_a_state_is(name):
    tx = optax.with_extra_args_support(WRAPPERS[name](precond.shampoo(0.1)))
    old, new = ({k: jnp.ones((4, 6)) for k in names} for names in ("ab", "bc"))
    more = {"value": jnp.ones([]), "value_fn": optax.tree.norm, "curvature": lambda v: v}
    more = more if name == "levenberg_marquardt" else {}
    given = tx.init(old)
    with pytest.raises(ValueError, match=r"state= is of .* it has no '.*c'"):
        tx.update(new, given, new, **more)
    restored = jax.tree.unflatten(jax.tree.structure(tx.init(new)), jax.tree.leaves(given))
    with pytest.raises(ValueError, match=r"state= is of other parameters: where 'b' of shape \(4, 6\)"):
        tx.update(new, restored, new, **more)

"""States by path and back, and what is kept of the state of another model, another configuration, or of Adam."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import precond
from precond.checkpoints import adopt, by_path
from precond.transforms.scale_by_mfac import MFACState
from precond.trees import find_nodes
from tests import catalog, of_gradients
from tests.checkpoint.models import equal, gradients, parameters, renamed, run
from tests.mesh import loops
from tests.problem import AS_USERS

TURNS = precond.every(3, stagger=True)
AT_ONCE = precond.every(3)  # turns go by the places of blocks, which change


def of_layers(tree):
    kinds = {name: precond.layers.dense() for name in tree}
    return precond.kfac(1e-2, precond.layers.explicit(kinds, tree).layers)


def split():
    labels = {name: {"kernel": name, "bias": "b"} for name in "abc"}
    parts = {"a": precond.shampoo(1e-2), "b": optax.adam(1e-2), "c": precond.soap(1e-2)}
    return optax.chain(optax.clip_by_global_norm(1.0), optax.partition(parts, labels))


MADE = {
    "shampoo, blocks of 5": lambda: precond.shampoo(
        optax.linear_schedule(1e-2, 0, 9), block_size=precond.ragged(5), refresh=AT_ONCE
    ),
    "soap": lambda: precond.soap(1e-2, refresh=AT_ONCE._replace(delay=1, warmup=1)),
    "kl_shampoo": lambda: precond.kl_shampoo(1e-2, block_size=4, refresh=AT_ONCE),
    "muon": lambda: precond.muon(1e-2),
    "google": lambda: precond.recipes.google_shampoo(1e-2, block_size=8),
    "mfac": lambda: precond.mfac(1e-2, window=3),
    "in turns": lambda: optax.MultiSteps(precond.shampoo(1e-2, refresh=TURNS), 2).gradient_transformation(),
    "split": split,
}


@functools.cache
def trained(name):
    params, tx = parameters(), MADE[name]()
    return params, tx, run(tx, params)[0]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in ("kl_shampoo", "muon", "google", "in turns"))) for n in MADE],
)
def test_a_state_by_path_makes_the_same_state_again(name):
    params, tx, state = trained(name)
    saved = by_path(tx, params, state)
    for given in (saved, state):
        adopted = adopt(tx, params, given)
        assert equal(adopted.state, state)
        assert (adopted.anew, adopted.partly) == ((), {})
        assert jax.tree.map(lambda x: x.dtype, adopted.state) == jax.tree.map(lambda x: x.dtype, state)


def test_a_state_of_layers_by_path_makes_the_same_state_again():
    params, tx = parameters(), of_layers(parameters())
    factors = of_gradients.factors_of(gradients(0, params), of_gradients.layers_of(params), None)
    factors = {
        name: precond.layers.LayerFactors(jnp.eye(13)[None], factors[f"{name}/kernel"].outputs) for name in params
    }
    _, state = tx.update(gradients(0, params), tx.init(params), params, factors=factors)
    saved = by_path(tx, params, state)
    assert saved["parameters"]["a/bias"]["0/stacks/stacks/momentum/ema"].shape == (8,)
    assert equal(adopt(tx, params, saved).state, state)


def test_entries_have_the_shape_and_the_numbers_of_their_parameter():
    # Definition: Optax's momentum of whole parameters.
    rng = np.random.default_rng(0)
    params = {name: rng.standard_normal(s) for name, s in {"a": (12, 7), "b": (3, 7, 12), "c": (3, 3, 4, 7)}.items()}
    plain, tx = optax.trace(0.9), precond.blocked(optax.trace(0.9), block_size=precond.ragged(5))
    (expected, _), (state, _) = (run(x, params)[0::1] for x in (plain, tx))
    saved = by_path(tx, params, state)["parameters"]
    for name, x in expected.trace.items():
        np.testing.assert_allclose(saved[name]["stacks/stacks/trace"], x, rtol=1e-6)


@pytest.mark.parametrize("how", ["npz", "orbax"])
def test_a_state_by_path_is_saved_and_restored(how, tmp_path):
    params, tx, state = trained("soap")
    saved = by_path(tx, params, state)
    if how == "orbax":
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "run", saved)
        with ocp.StandardCheckpointer() as checkpointer:
            restored = checkpointer.restore(tmp_path / "run")
    else:
        np.save(tmp_path / "run.npy", saved, allow_pickle=True)
        restored = np.load(tmp_path / "run.npy", allow_pickle=True).item()
    assert equal(adopt(tx, params, restored).state, state)


def test_the_state_of_other_parameters_has_no_dictionary():
    params, tx, state = trained("soap")
    others = renamed(params, a="z")
    with pytest.raises(ValueError, match=r"state= is of other parameters: where 'b/kernel' of shape \(12, 8\)"):
        by_path(tx, others, jax.tree.unflatten(jax.tree.structure(tx.init(others)), jax.tree.leaves(state)))


@pytest.mark.parametrize("by_name", [False, True], ids=["state", "by path"])
@pytest.mark.parametrize(
    "name", ["shampoo, blocks of 5", "soap", "muon", pytest.param("google", marks=pytest.mark.slow)]
)
def test_a_run_whose_parameters_are_renamed_and_sort_elsewhere_goes_on_as_it_would_have(name, by_name):
    params, tx, state = trained(name)
    others = renamed(params, a="z")
    old = {"z/kernel": "a/kernel", "z/bias": "a/bias"}
    given = by_path(tx, params, state) if by_name else state
    adopted = adopt(tx, others, given, renamed=old if by_name else lambda path: old.get(path, path))
    assert (adopted.anew, adopted.partly) == ((), {})
    grads = gradients(7, params)
    expected, _ = jax.jit(tx.update)(grads, state, params)
    actual, _ = jax.jit(tx.update)(renamed(grads, a="z"), adopted.state, others)
    chex.assert_trees_all_close(actual, renamed(expected, a="z"), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("given", [{}, {"density": 0.5}, pytest.param({"rank": 1}, marks=pytest.mark.slow)], ids=str)
def test_gradients_of_a_window_follow_their_parameters_or_all_begin_anew(given):
    tx, params = precond.mfac(1e-2, window=3, **given), parameters()
    state, others = run(tx, params)[0], renamed(params, a="z")
    old = {f"z/{name}": f"a/{name}" for name in ("kernel", "bias")}
    adopted = adopt(tx, others, state, renamed=old)
    assert len(adopted.kept) == 6
    update = jax.jit(tx.update)
    expected = renamed(update(gradients(9, params), state, params)[0], a="z")
    actual = update(renamed(gradients(9, params), a="z"), adopted.state, others)[0]
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-7)
    # Inner products have all parameters in them.
    fewer = {name: params[name] for name in "bc"}
    for new in (fewer, params | {"d": params["a"]}):
        adopted = adopt(tx, new, state).state
        rest, fresh = (jax.tree.leaves(find_nodes(x, MFACState)) for x in (adopted, tx.init(new)))
        assert equal(rest, fresh)


def test_without_their_old_names_renamed_parameters_begin_anew():
    params, tx, state = trained("muon")
    adopted = adopt(tx, renamed(params, a="z"), state)
    assert adopted.anew == ("z/bias", "z/kernel")
    assert adopted.kept == ("b/bias", "b/kernel", "c/bias", "c/kernel")


@pytest.mark.parametrize(
    "name", ["shampoo, blocks of 5", "soap", pytest.param("kl_shampoo", marks=pytest.mark.slow), "muon"]
)
def test_with_parameters_more_and_less_the_others_go_on_as_they_would_have(name):
    params, tx, state = trained(name)
    new = {"kernel": np.ones((12, 8), np.float32), "bias": np.ones(8, np.float32)}
    others = {"0": new, "a": params["a"], "c": params["c"]}
    adopted = adopt(tx, others, state)
    assert set(adopted.anew) == {"0/bias", "0/kernel"}
    assert set(adopted.kept) == {"a/bias", "a/kernel", "c/bias", "c/kernel"}
    grads = gradients(7, params)
    expected, _ = jax.jit(tx.update)(grads, state, params)
    actual, _ = jax.jit(tx.update)({"0": grads["b"], "a": grads["a"], "c": grads["c"]}, adopted.state, others)
    for layer in ("a", "c"):
        for k, x in actual[layer].items():
            np.testing.assert_allclose(x, expected[layer][k], rtol=1e-3, atol=1e-5)
    # What begins anew takes no longer steps than what has been there.
    for k in ("kernel", "bias"):
        assert np.linalg.norm(actual["0"][k]) < 3 * np.linalg.norm(actual["a"][k])


def test_a_larger_vocabulary_begins_anew_and_the_rest_goes_on():
    params = parameters() | {"embedding": np.ones((40, 8), np.float32)}
    grown = parameters() | {"embedding": np.ones((48, 8), np.float32)}
    tx = precond.shampoo(1e-2)
    adopted = adopt(tx, grown, run(tx, params)[0])
    assert adopted.anew == ("embedding",)
    assert set(adopted.kept) == {f"{layer}/{k}" for layer in "abc" for k in ("kernel", "bias")}
    fresh = {"embedding": grown["embedding"]}
    grads = gradients(7, grown)
    updates, _ = tx.update(grads, adopted.state, grown)
    expected, _ = tx.update({"embedding": grads["embedding"]}, tx.init(fresh), fresh)
    np.testing.assert_allclose(updates["embedding"], expected["embedding"], rtol=1e-6)


def test_with_another_block_size_momentum_and_second_moments_go_on():
    params, old, state = trained("shampoo, blocks of 5")
    tx = precond.shampoo(optax.linear_schedule(1e-2, 0, 9))
    adopted = adopt(tx, params, state)
    was, now = (by_path(x, params, s)["parameters"] for x, s in ((old, state), (tx, adopted.state)))
    for path in ("a/kernel", "b/kernel"):
        for place in ("0/stacks/stacks/momentum/ema", "0/stacks/stacks/inner/magnitude/nu"):
            np.testing.assert_array_equal(was[path][place], now[path][place])
        assert now[path]["0/stacks/stacks/momentum/12x8/count"] == 4
        assert any("roots" in place for place in adopted.partly[path])
        assert not any("momentum" in place or "magnitude" in place for place in adopted.partly[path])
    assert adopted.state[0].stacks.stacks.inner.direction.count == 0  # so that all roots come at once
    assert adopted.state[1][1].count == 4  # of the learning rate's schedule
    grads = gradients(7, params)
    expected, _ = jax.jit(old.update, compiler_options=AS_USERS)(grads, state, params)
    actual, _ = jax.jit(tx.update, compiler_options=AS_USERS)(grads, adopted.state, params)
    for layer in params:
        np.testing.assert_array_equal(actual[layer]["bias"], expected[layer]["bias"])
        ratio = np.linalg.norm(actual[layer]["kernel"]) / np.linalg.norm(expected[layer]["kernel"])
        np.testing.assert_allclose(ratio, 1, atol=1e-3)  # the graft's


def test_a_momentum_that_roots_multiply_begins_anew_with_them():
    params, _, state = trained("soap")
    tx = precond.soap(1e-2, block_size=4)
    adopted = adopt(tx, params, state)
    assert adopted.anew == ("a/kernel", "b/kernel", "c/kernel")
    assert adopted.state[0].stacks.stacks.count == 0


def adam_run(tx, steps=60):
    params = parameters()
    return params, *run(tx, params, steps=range(steps))


@pytest.mark.parametrize(("b1", "b2"), [(0.9, 0.999), (0.8, 0.95)])
def test_from_adam_the_first_update_is_as_long_as_the_next_of_adam_and_that_of_vectors_is_the_same(b1, b2):
    adam = optax.adam(optax.linear_schedule(1e-2, 0, 100), b1, b2, eps=1e-15)
    params, state, _ = adam_run(adam)
    rate, late = optax.linear_schedule(1e-2, 0, 100), precond.every(20, stagger=True, delay=1)
    tx = precond.shampoo(rate, b1=b1, b2=b2, block_size=4, refresh=late)  # so that the first step has no roots
    adopted = adopt(tx, params, state, b1=b1, b2=b2)
    assert adopted.kept == ("a/bias", "b/bias", "c/bias")
    assert all("magnitude" not in place and "momentum" not in place for x in adopted.partly.values() for place in x)
    assert adopted.state[1][1].count == 60
    grads = gradients(99, params)
    expected, _ = jax.jit(adam.update)(grads, state, params)
    actual, after = jax.jit(tx.update)(grads, adopted.state, params)
    assert precond.metrics(after)["blocks/foreign"] == 0
    # After 60 steps Adam's own correction of b2 = 0.999 is 0.058: without it these are not near each other.
    for layer in params:
        np.testing.assert_allclose(actual[layer]["bias"], expected[layer]["bias"], rtol=5e-3, atol=1e-5)
        for rows in (slice(0, 4), slice(4, 8), slice(8, 12)):
            for columns in (slice(0, 4), slice(4, 8)):
                block, other = (x[layer]["kernel"][rows, columns] for x in (actual, expected))
                np.testing.assert_allclose(np.linalg.norm(block) / np.linalg.norm(other), 1, rtol=5e-3)
                assert jnp.vdot(block, other) > 0.3 * np.linalg.norm(block) * np.linalg.norm(other)


@pytest.mark.parametrize(
    "name", ["shampoo", "muon", *(pytest.param(x, marks=pytest.mark.slow) for x in ("soap", "kl_shampoo", "kl_soap"))]
)
def test_from_adam_in_the_middle_of_a_run_the_loss_does_not_jump(name):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((256, 12), np.float32)
    y = np.tanh(x @ rng.standard_normal((12, 8), np.float32))
    params = {
        "a": {"kernel": rng.standard_normal((12, 32), np.float32) / 4, "bias": np.zeros(32, np.float32)},
        "b": {"kernel": rng.standard_normal((32, 8), np.float32) / 6, "bias": np.zeros(8, np.float32)},
    }

    def loss(params):
        hidden = jnp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"])
        return jnp.mean((hidden @ params["b"]["kernel"] + params["b"]["bias"] - y) ** 2)

    def descend(tx, params, state, steps):
        def step(carry, _):
            value, grads = jax.value_and_grad(loss)(carry[0])
            updates, state = tx.update(grads, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), value

        return jax.jit(lambda carry: jax.lax.scan(step, carry, None, steps))((params, state))

    adam, tx = optax.adamw(3e-3), getattr(precond, name)(3e-3)
    (params, state), _ = descend(adam, params, adam.init(params), 150)
    _, values = descend(tx, params, adopt(tx, params, state, b1=0.9, b2=0.999).state, 40)
    assert np.max(values) < 1.05 * values[0]
    assert values[-1] < 0.95 * values[0]


AROUND_ADAM = {  # and where in the state Adam's is
    "MultiSteps": (
        lambda: optax.MultiSteps(optax.chain(optax.clip(9.0), optax.adamw(1e-3)), 2).gradient_transformation(),
        lambda state: state.inner_opt_state[1][0],
    ),
    "masked": (
        lambda: optax.masked(optax.adam(1e-3), lambda p: jax.tree.map(lambda x: True, p)),
        lambda state: state.inner_state[0],
    ),
    "inject_hyperparams": (lambda: optax.inject_hyperparams(optax.adamw)(1e-3), lambda state: state.inner_state[0]),
}


def check_biases(adopted, adam, layer):
    count = int(adam.count)
    mu = jax.tree.map(lambda m: np.asarray(m) / (1 - 0.9**count), adam.mu)
    np.testing.assert_allclose(layer(adopted.state[0].otherwise.inner_state.inner.momentum), layer(mu), rtol=1e-6)


@pytest.mark.parametrize("around", AROUND_ADAM)
def test_adam_is_found_inside_of_wrappers_and_masks(around):
    params, (make, inside) = parameters(), AROUND_ADAM[around]
    state = run(make(), params)[0]
    adopted = adopt(precond.shampoo(1e-3), params, state, b1=0.9, b2=0.999)
    assert adopted.kept == ("a/bias", "b/bias", "c/bias")
    check_biases(adopted, inside(state), lambda tree: tree["a"]["bias"])


def test_adam_is_found_in_the_state_of_an_nnx_optimizer():
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    optimizer, params = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param), nnx.state(model, nnx.Param)
    optimizer.update(model, jax.tree.map(jnp.ones_like, params))
    adopted = adopt(precond.shampoo(1e-3), params, optimizer.opt_state, b1=0.9, b2=0.999)
    assert (adopted.kept, list(adopted.partly), adopted.anew) == (("bias",), ["kernel"], ())
    check_biases(adopted, nnx.as_pure(optimizer.opt_state)[0], lambda tree: nnx.as_pure(tree)["bias"])


def test_the_momentum_of_adam_becomes_that_of_kfac():
    params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
    capture = precond.layers.explicit({"": precond.layers.dense()}, params)
    state = run(optax.adam(1e-3), params)[0]
    for alias in (precond.kfac, precond.ekfac):
        adopted = adopt(alias(1e-2, capture.layers), params, state, b1=0.9, b2=0.999)
        assert list(adopted.partly) == ["kernel"]
        assert not [place for place in adopted.partly["kernel"] if "momentum" in place]


@pytest.mark.parametrize("params", [np.ones(3, np.float32), {"b": np.ones(3, np.float32)}, {1: np.ones(3, np.float32)}])
def test_parameters_may_be_one_array_and_none_may_have_a_view(params):
    tx, adam = precond.shampoo(1e-3, b2=0.999), optax.adam(1e-3, eps=1e-15)
    state, _ = run(adam, params, steps=range(60))
    adopted = adopt(tx, params, state, b1=0.9, b2=0.999)
    assert adopted.kept == tuple(precond.checkpoints.by_path(tx, params, adopted.state)["parameters"])
    expected, actual = (x.update(gradients(7, params), s)[0] for x, s in ((adam, state), (tx, adopted.state)))
    chex.assert_trees_all_close(actual, expected, rtol=5e-3, atol=1e-6)
    assert equal(adopt(tx, params, by_path(tx, params, adopted.state)).state, adopted.state)


def test_adopted_states_lie_where_new_ones_do():
    mesh, params = loops.mesh_of(), parameters()
    tx = precond.shampoo(1e-2, axis="data", refresh=AT_ONCE)
    alone = precond.shampoo(1e-2, axis=precond.sharded(None, multiple=8), refresh=AT_ONCE)
    old = run(alone, params)[0]
    with jax.set_mesh(mesh):
        fresh, adopted = tx.init(params), adopt(tx, params, old)
        assert (adopted.anew, adopted.partly) == ((), {})
        assert equal(by_path(tx, params, adopted.state), by_path(alone, params, old))
        same = jax.tree.map(lambda x, y: x.sharding.is_equivalent_to(y.sharding, x.ndim), fresh, adopted.state)
        assert all(jax.tree.leaves(same))
        # A checkpoint without a mesh, of stacks that are not padded.
        adopted = adopt(tx, params, run(precond.shampoo(1e-2, refresh=AT_ONCE), params)[0])
        assert (adopted.anew, adopted.partly) == ((), {})
        updates, _ = jax.jit(tx.update)(gradients(7, params), adopted.state, params)
    expected, _ = jax.jit(alone.update)(gradients(7, params), old, params)
    chex.assert_trees_all_close(updates, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: optax.adam(1e-3), lambda: precond.shampoo(1e-3)], ids=["adam", "shampoo"])
def test_moments_that_are_not_finite_are_refused(make):
    params, old = {"kernel": jnp.ones((6, 4)), "bias": jnp.zeros(4)}, make()
    state = old.update(params, old.init(params), params)[1]
    state = jax.tree.map(lambda x: x * jnp.nan if x.dtype == jnp.float32 else x, state)
    with pytest.raises(ValueError, match=r"state= has numbers in '.*' of '(kernel|bias)' that are not finite"):
        precond.checkpoints.adopt(precond.shampoo(1e-3), params, state)


@pytest.mark.parametrize("name", ["adopt", "by_path"])
def test_under_jit_there_are_no_numbers_to_read(name):
    tx, params = precond.shampoo(1e-3), {"kernel": jnp.ones((6, 4))}
    with pytest.raises(
        TypeError, match=rf"state= has a traced array at '.*', and {name}\(\) reads numbers: call it outside"
    ):
        jax.eval_shape(lambda state: getattr(precond.checkpoints, name)(tx, params, state), tx.init(params))


def test_the_state_of_several_models_is_refused():
    tx, params = precond.shampoo(1e-2), parameters()
    state = jax.vmap(tx.init)(jax.tree.map(lambda x: np.stack([x, x]), params))
    for given in (lambda: by_path(tx, params, state), lambda: adopt(tx, params, state)):
        with pytest.raises(ValueError, match="this is the state of several models"):
            given()
    one = jax.tree.map(lambda x: x[0], state)
    assert equal(adopt(tx, params, one).state, one)


def test_a_report_prints_without_the_state():
    params, tx, state = trained("muon")
    adopted = adopt(tx, {"a": params["a"]}, state)
    assert repr(adopted) == "Adopted(kept=2: 'a/bias', 'a/kernel'; partly=0; anew=0; uncorrected=0)"


@pytest.mark.parametrize("case", catalog.DEFAULTS, ids=lambda case: case.name)
def test_what_a_new_state_takes_from_nothing_is_a_new_state(case):
    params = parameters()
    tx = case.make()
    adopted = adopt(tx, params, optax.sgd(0.1).init(params))
    assert equal(adopted.state, tx.init(params))
    assert adopted.kept == ()


AROUND = {
    "clip": lambda tx: optax.chain(optax.clip_by_global_norm(1e9), tx),
    "chain": lambda tx: optax.chain(optax.identity(), optax.trace(0.0), tx, optax.scale(1.0)),
    "finite": lambda tx: optax.apply_if_finite(tx, 3),
    "steps": lambda tx: optax.MultiSteps(tx, 1).gradient_transformation(),
    "masked": lambda tx: optax.masked(tx, True),
}


@pytest.mark.parametrize(
    ("before", "after", "saved"),
    [("", "clip", "state"), ("finite", "", "by path"), ("steps", "chain", "state"), ("clip", "steps", "by path")],
)
def test_a_run_goes_on_where_wrappers_come_and_go(before, after, saved):
    def within(name):
        tx = precond.shampoo(optax.linear_schedule(1e-2, 0, 9), refresh=precond.every(2))
        return AROUND[name](tx) if name else tx

    params, old, tx = parameters(), within(before), within(after)
    state = run(old, params)[0]
    given = by_path(old, params, state) if saved == "by path" else state
    adopted = adopt(tx, params, given)
    assert not adopted.anew
    kept = {place.partition("/")[0] for places in adopted.partly.values() for place in places}
    assert kept <= {"acc_grads", "1"}  # what the new wrappers keep themselves
    grads = gradients(7, params)
    chex.assert_trees_all_equal(tx.update(grads, adopted.state, params)[0], old.update(grads, state, params)[0])


def test_two_of_them_that_change_places_begin_anew():
    params = parameters()
    kernels = jax.tree_util.tree_map_with_path(lambda path, _: path[0].key == "a", params)
    others = jax.tree.map(lambda x: not x, kernels)
    parts = [optax.masked(precond.shampoo(1e-2), kernels), optax.masked(precond.shampoo(1e-2), others)]
    state = run(optax.chain(*parts), params)[0]
    moved = optax.chain(parts[0], optax.chain(optax.identity(), parts[1]))
    adopted = adopt(moved, params, state)
    assert set(adopted.kept) == {"a/bias", "a/kernel"}
    assert {path.partition("/")[0] for path in adopted.anew} == {"b", "c"}

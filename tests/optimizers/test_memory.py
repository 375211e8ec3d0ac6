"""What the aliases keep in 16 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond

ONE_MOMENT = {"magnitude": precond.transforms.scale_by_mean_square()}
SIZES = {
    "shampoo": (precond.shampoo, {}, 5, 2.5),
    "shampoo, one moment a block": (precond.shampoo, ONE_MOMENT, 4, 2),
    "kl_shampoo": (precond.kl_shampoo, {}, 4, 2),
    "soap": (precond.soap, {}, 5, 3),
    "kl_soap": (precond.kl_soap, {}, 5, 3),
    "muon": (precond.muon, {}, 1, 0.5),
}


@pytest.mark.parametrize(("make", "given", "wide", "narrow"), SIZES.values(), ids=SIZES)
def test_the_table_of_sizes_is_true(make, given, wide, narrow):
    params = {"w": jax.ShapeDtypeStruct((512, 512), jnp.float32)}
    for memory, times in ((None, wide), (precond.Memory(), narrow)):
        planned = precond.plan(make(1e-3, memory=memory, **given), params)
        assert sum(planned.bytes.values()) == pytest.approx(times * 4 * 512**2, rel=0.002)


def test_parameters_without_a_view_are_included():
    params = {"embedding": jnp.ones((100, 64)), "kernel": jnp.ones((4, 4))}
    for alias in (precond.shampoo, precond.soap, precond.kl_shampoo, precond.kl_soap, precond.muon):
        state = alias(1e-3, memory=precond.Memory(roots=False)).init(params)
        moments = [x for x in jax.tree.leaves(state) if x.shape == (100, 64)]
        assert [x.dtype for x in moments] == [jnp.bfloat16] * 2
        assert not any(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(alias(1e-3).init(params)))


def test_fields_are_independent():
    params = {"w": jnp.ones((4, 4))}
    entries = precond.soap(1e-3, memory=precond.Memory(roots=False)).init(params)
    roots = precond.soap(1e-3, memory=precond.Memory(entries=False)).init(params)
    both = precond.soap(1e-3, memory=precond.Memory()).init(params)
    narrow = (jnp.bfloat16, jnp.int16)
    count = [sum(x.dtype in narrow for x in jax.tree.leaves(state)) for state in (entries, roots, both)]
    assert count == [2, 2, 4]  # momentum and second moments; two bases


@pytest.mark.parametrize(
    "alias", [precond.shampoo, pytest.param(precond.soap, marks=pytest.mark.slow)], ids=["shampoo", "soap"]
)
def test_training_ends_where_it_ends_without(alias):
    rng = np.random.default_rng(0)
    target = jnp.asarray(rng.standard_normal((12, 8)) * np.logspace(0, -1, 8), jnp.float32)

    def loss(w, key):
        return jnp.sum((w["w"] - target + 0.1 * jax.random.normal(key, target.shape)) ** 2)

    def trained(**given):
        tx = alias(optax.cosine_decay_schedule(0.05, 200), refresh=5, **given)
        params = {"w": jnp.zeros_like(target)}

        def step(carry, key):
            grads = jax.grad(loss)(carry[0], key)
            updates, state = tx.update(grads, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        keys = jax.random.split(jax.random.key(1), 200)
        (params, _), _ = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), keys))(params)
        return float(jnp.linalg.norm(params["w"] - target) / jnp.linalg.norm(target))

    wide, narrow = trained(), trained(memory=precond.Memory())
    assert wide < 0.05
    assert narrow < 1.1 * wide


@pytest.mark.parametrize("alias", [precond.shampoo, precond.soap])
def test_a_run_may_change_its_memory_in_the_middle(alias):
    params = {"w": jax.random.normal(jax.random.key(0), (8, 4)), "embedding": jnp.ones((5, 3))}
    wide, narrow = alias(1e-2), alias(1e-2, memory=precond.Memory())
    for old, new in ((wide, narrow), (narrow, wide), (narrow, narrow)):
        state = old.init(params)
        for step in range(3):
            grads = optax.tree.random_like(jax.random.key(step), params)
            _, state = old.update(grads, state, params)
        adopted = precond.checkpoints.adopt(new, params, state)
        assert (adopted.anew, adopted.partly) == ((), {})
        expected, _ = old.update(params, state, params)
        updates, _ = new.update(params, adopted.state, params)
        for name, u in updates.items():
            assert jnp.linalg.norm(u - expected[name]) < 0.1 * jnp.linalg.norm(expected[name])


def test_parameters_may_have_the_names_of_the_parts_of_fixed_point():
    params = {"integers": jnp.arange(4.0), "scales": 1 + jnp.arange(4.0)}
    tx = optax.adam(1e-3)
    _, state = tx.update(params, tx.init(params), params)
    adopted = precond.checkpoints.adopt(tx, params, state)
    jax.tree.map(np.testing.assert_array_equal, adopted.state, state)


@pytest.mark.parametrize("form", ["state", "dictionaries", "by path"])
def test_a_state_of_soap_in_fixed_point_is_adopted_to_the_last_bit(form):
    params = {"w": jax.random.normal(jax.random.key(0), (8, 6)), "conv": jnp.ones((3, 3, 4, 8)), "bias": jnp.ones(6)}
    tx = precond.soap(1e-2, memory=precond.Memory(), block_size=4)
    state = tx.init(params)
    for step in range(3):
        _, state = tx.update(optax.tree.random_like(jax.random.key(step), params), state, params)
    saved = {
        "state": lambda: state,
        "dictionaries": lambda: in_dictionaries(state),
        "by path": lambda: precond.checkpoints.by_path(tx, params, state),
    }[form]()
    adopted = precond.checkpoints.adopt(tx, params, saved)
    assert (adopted.anew, adopted.partly) == ((), {})
    jax.tree.map(np.testing.assert_array_equal, adopted.state, state)


def in_dictionaries(tree):
    """Return a state as Orbax restores it without a target."""
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return {name: in_dictionaries(x) for name, x in tree._asdict().items()}
    if isinstance(tree, tuple):
        return [in_dictionaries(x) for x in tree]
    return {k: in_dictionaries(x) for k, x in tree.items()} if isinstance(tree, dict) else tree


@pytest.mark.parametrize("alias", [precond.scale_by_shampoo, precond.scale_by_muon])
def test_a_derivative_through_updates_is_that_without_rounding(alias):
    params = {"kernel": jnp.ones((4, 6))}
    grads = [jax.random.normal(jax.random.key(i), (4, 6)) for i in range(4)]

    def update(scale, memory):
        tx = alias(memory=memory)
        state = tx.init(params)
        for i in range(3):
            updates, state = tx.update({"kernel": grads[i] * (scale if i == 1 else 1.0)}, state, params)
        return jnp.vdot(grads[3], updates["kernel"])

    wide, narrow = (jax.jit(jax.grad(lambda scale, m=m: update(scale, m)))(1.0) for m in (None, precond.Memory()))
    assert abs(wide) > 0.01
    np.testing.assert_allclose(narrow, wide, rtol=0.1)


@pytest.mark.parametrize("alias", [precond.scale_by_soap, precond.scale_by_kl_soap])
def test_a_derivative_through_integers_is_refused(alias):
    params, tx = {"kernel": jnp.ones((4, 6))}, alias(memory=precond.Memory())
    state = jax.jit(tx.init)(params)

    def moved(a):
        return tx.update({"kernel": a * params["kernel"]}, state, params)[0]["kernel"].sum()

    for differentiate in (jax.grad, jax.jacfwd):
        with pytest.raises(TypeError, match=r"integers have none.*Memory\(entries=False\)"):
            jax.eval_shape(differentiate(moved), 1.0)


@pytest.mark.parametrize("alias", [precond.soap, precond.shampoo, precond.kl_shampoo, precond.kl_soap, precond.muon])
@pytest.mark.parametrize("size", [1e40, 1e-20])
def test_numbers_of_float64_keep_their_range(alias, size):
    with jax.enable_x64(True):
        params, ends = {"kernel": jnp.ones((4, 6), jnp.float64)}, []
        for memory in (None, precond.Memory()):
            tx = alias(1e-2, memory=memory)
            state = tx.init(params)
            for i in range(4):
                grads = {"kernel": size * jax.random.normal(jax.random.key(i), (4, 6), jnp.float64)}
                updates, state = tx.update(grads, state, params)
            ends.append(updates["kernel"])
        np.testing.assert_allclose(ends[1], ends[0], rtol=0.05, atol=0.02 * jnp.abs(ends[0]).max())


def test_a_state_with_python_numbers_in_its_parameters_has_a_small_state():
    params = {"scale": 1.0, "kernel": jnp.ones((3, 3))}
    tx = precond.soap(1e-2, memory=precond.Memory())
    updates, _ = tx.update(params, tx.init(params), params)
    assert jnp.isfinite(updates["scale"])


@pytest.mark.parametrize(
    ("alias", "narrow"),
    [
        (precond.shampoo, jnp.bfloat16),
        (precond.kl_shampoo, jnp.bfloat16),
        (precond.muon, jnp.bfloat16),
        (precond.soap, jnp.bfloat16),
        (precond.soap, jnp.int16),
    ],
)
def test_a_small_state_that_was_widened_says_how_to_cast_it(alias, narrow):
    params, tx = {"kernel": jnp.ones((4, 6))}, alias(1e-2, memory=precond.Memory())
    state = tx.init(params)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == narrow else x, state)
    with pytest.raises(ValueError, match=rf"state= has '.*' in float32, and it must be {jnp.dtype(narrow)}. Cast"):
        tx.update(params, wide, params)
    again = jax.tree.map(lambda x, y: x.astype(y.dtype), wide, tx.init(params))
    assert jnp.isfinite(tx.update(params, again, params)[0]["kernel"]).all()


@pytest.mark.parametrize("alias", [precond.shampoo, precond.soap, precond.kl_soap, precond.muon])
@pytest.mark.parametrize("memory", [None, precond.Memory()])
def test_averages_that_are_not_finite_are_not_adopted(alias, memory):
    params, tx = {"kernel": jnp.ones((4, 6))}, alias(1e-2, memory=memory)
    state = tx.init(params)

    def spoilt(path, x):
        mine = "momentum" in jax.tree_util.keystr(path) and jnp.issubdtype(x.dtype, jnp.floating)
        return x * jnp.nan if mine else x

    with pytest.raises(ValueError, match="not finite"):
        precond.checkpoints.adopt(tx, params, jax.tree_util.tree_map_with_path(spoilt, state))


def test_the_state_of_another_memory_is_refused():
    params = {"w": jnp.ones((4, 4))}
    wide, narrow = precond.soap(1e-2), precond.soap(1e-2, memory=precond.Memory())
    for tx, other in ((wide, narrow), (narrow, wide)):
        with pytest.raises(ValueError, match=r"^state="):
            tx.update(params, other.init(params), params)

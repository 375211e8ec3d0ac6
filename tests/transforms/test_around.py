"""Blocked, graft, switch and the small transformations, against their definitions."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from tests.problem import gradients as problem_gradients
from tests.problem import trajectory

SHAPES = {"w": (6, 5), "e": (2, 3, 4), "b": (7,)}


def params():
    return {k: np.random.default_rng(1).standard_normal(s) for k, s in SHAPES.items()}


def test_blocked_runs_the_inner_on_blocks_and_the_other_on_the_rest():
    tx = precond.blocked(precond.transforms.normalize(), block_size=precond.ragged(3), otherwise=optax.scale(5.0))
    g = jax.tree.map(jnp.asarray, params())
    updates, _ = tx.update(g, tx.init(g))
    np.testing.assert_allclose(updates["b"], 5 * g["b"])
    for rows in (slice(0, 3), slice(3, 6)):
        for columns in (slice(0, 3), slice(3, 5)):
            np.testing.assert_allclose(np.linalg.norm(updates["w"][rows, columns]), 1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(updates["e"][1, :, 3:]), 1, rtol=1e-6)


def test_blocked_gives_parameters_as_stacks_to_those_who_ask():
    tx = precond.blocked(optax.add_decayed_weights(0.1), otherwise=optax.identity())
    p = jax.tree.map(jnp.asarray, params())
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, p), tx.init(p), p)
    np.testing.assert_allclose(updates["w"], 0.1 * p["w"], rtol=1e-6)


@pytest.mark.parametrize("inside", [True, False])
def test_grafting_takes_norms_by_block_inside_and_by_parameter_outside(inside):
    g = {"w": jnp.asarray(np.random.default_rng(0).standard_normal((6, 3)))}
    direction, magnitude = optax.scale(7.0), optax.scale_by_sign()
    if inside:
        tx = precond.blocked(precond.graft(direction, magnitude), block_size=3)
    else:
        tx = precond.graft(precond.blocked(direction, block_size=3), magnitude)
    out = tx.update(g, tx.init(g))[0]["w"]
    norm = np.linalg.norm
    if inside:
        np.testing.assert_allclose(norm(out[:3]), 3, rtol=1e-6)  # nine signs
        np.testing.assert_allclose(norm(out[3:]), 3, rtol=1e-6)
    else:
        np.testing.assert_allclose(out, np.asarray(g["w"]) * np.sqrt(18) / norm(g["w"]), rtol=1e-6)


def test_before_its_start_a_graft_is_its_magnitude():
    direction = optax.stateless(lambda updates, _: updates * jnp.asarray([0.0, 1.0, 1.0, 1.0]))
    tx, g = precond.graft(direction, optax.scale(2.0), start=3), jnp.ones(4)
    state, seen = tx.init(g), []
    for _ in range(4):
        out, state = tx.update(g, state)
        seen.append(out[0].item())
    assert seen == [2, 2, 0, 0]


def test_a_zero_direction_stays_zero():
    tx, g = precond.graft(optax.set_to_zero(), optax.identity()), jnp.ones(3)
    np.testing.assert_array_equal(tx.update(g, tx.init(g))[0], 0)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_grafting_neither_overflows_nor_vanishes(size):
    g = jnp.full((3,), size, jnp.float32)
    tx = precond.graft(optax.identity(), optax.identity())
    np.testing.assert_allclose(tx.update(g, tx.init(g))[0], g, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_both_sides_of_a_switch_learn_all_the_time():
    grads = problem_gradients(SHAPES, steps=6)
    tx = precond.transforms.switch(4, optax.scale(-0.1), optax.chain(optax.trace(0.9), optax.scale(-0.1)))
    path = trajectory(tx, params(), grads)
    heavy = trajectory(optax.chain(optax.trace(0.9), optax.scale(-0.1)), params(), grads)
    np.testing.assert_allclose(path["w"][3] - path["w"][2], heavy["w"][3] - heavy["w"][2], rtol=1e-9)
    np.testing.assert_allclose(path["w"][1] - path["w"][0], -0.1 * grads[1]["w"], rtol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("ours", "optaxs"),
    [
        (
            lambda: precond.transforms.scale_by_diagonal(0.9, eps=1e-3, bias_correction=True, momentum=optax.ema(0.8)),
            lambda: optax.scale_by_adam(0.8, 0.9, 1e-3),
        ),
        (
            lambda: precond.transforms.scale_by_diagonal(0.9, eps=1e-3),
            lambda: optax.scale_by_rms(0.9, 1e-3, eps_in_sqrt=False),
        ),
        (lambda: precond.transforms.scale_by_diagonal(eps=0.0), lambda: optax.scale_by_rss(0.0, 0.0)),
        (lambda: precond.transforms.lookahead_ema(0.9), lambda: optax.ema(0.9)),
    ],
    ids=["adam", "rmsprop", "adagrad", "ema"],
)
def test_where_optax_has_the_method_ours_is_the_same(ours, optaxs):
    grads = problem_gradients(SHAPES, steps=5)
    for a, b in zip(*(trajectory(tx(), params(), grads).values() for tx in (ours, optaxs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_with_a_power_of_one_it_is_the_natural_gradient_of_a_diagonal_fisher_matrix():
    rng, n, beta = np.random.default_rng(0), 8, 0.9
    tx = precond.transforms.scale_by_diagonal(beta, weight=(1 - beta) * n, eps=1e-2, power=1.0)
    grads = [jnp.asarray(rng.standard_normal(5)) for _ in range(3)]
    state, fisher = tx.init(grads[0]), np.zeros(5)
    for g in grads:
        updates, state = tx.update(g, state)
        fisher = beta * fisher + (1 - beta) * n * np.asarray(g) ** 2
    np.testing.assert_allclose(updates, grads[-1] / (fisher + 1e-2), rtol=1e-5)


def test_arguments_are_checked_by_name():
    for make, message in [
        (lambda: precond.blocked(optax.identity(), block_size=0), "block_size=0: must be at least 1"),
        (lambda: precond.graft(optax.identity(), optax.identity(), start=0), "start=0"),
        (lambda: precond.graft(optax.identity(), optax.identity(), eps=-1), "eps=-1"),
        (lambda: precond.transforms.switch(0, optax.identity(), optax.identity()), "start=0"),
        (lambda: precond.transforms.lookahead_ema(2.0), "b1=2.0: must lie between 0 and 1"),
        (lambda: precond.transforms.normalize(-1.0), "eps=-1.0"),
        (lambda: precond.transforms.scale_by_diagonal(2.0), "decay=2.0"),
        (lambda: precond.shampoo(-1.0), "learning_rate=-1.0"),
        (lambda: precond.shampoo(1.0, weight_decay=-1.0), "weight_decay=-1.0"),
        (lambda: precond.soap(1.0, block_size=-1), "block_size=-1"),
        (lambda: precond.shampoo(np.inf), "learning_rate=inf: must be finite"),
        (lambda: precond.shampoo(1.0, b1=1.0), "b1=1.0: must be below 1"),
        (lambda: precond.soap(1.0, b1=1.5), "b1=1.5"),
        (lambda: precond.kl_shampoo(1.0, b2=2.0), "b2=2.0"),
        (lambda: precond.shampoo(1.0, damping=-1.0), "damping=-1.0"),
        (lambda: precond.mfac(np.inf), "learning_rate=inf: must be finite"),
        (lambda: precond.adascale(optax.sgd, np.inf, 2), "schedule=inf: must be finite"),
        (lambda: precond.kfac(1.0, b1=1.5), "b1=1.5"),
        (lambda: precond.kfac(1.0, bound=-1.0), "bound=-1.0"),
        (lambda: precond.ekfac(1.0, {}, b2=2.0), "b2=2.0"),
        (lambda: precond.corrected_inverse(follow=precond.roots.ema(1.0)), "decay=1.0: must be below 1"),
        (lambda: precond.mfac(1.0, b1=1.0), "b1=1.0: must be below 1"),
        (lambda: precond.transforms.lookahead_ema(0.9, 1.0), "b3=1.0: must be below 1"),
        (lambda: precond.views.rules(("(", None)), r"'\(' is not a regular expression"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


def test_parts_of_another_kind_are_refused_by_name():
    for make, message in [
        (lambda: precond.shampoo(1.0, b1="0.9"), "b1='0.9': must be a number"),
        (
            lambda: precond.shampoo(1.0, method="eigh"),
            r"method='eigh': must be of type Method, such as precond.eigh\(\)",
        ),
        (lambda: precond.soap(1.0, method=precond.eigh), "method=.*Call this function"),
        (lambda: precond.shampoo(1.0, otherwise=optax.adam), "otherwise=.*Call this function"),
        (lambda: precond.shampoo(1.0, magnitude="adam"), "magnitude='adam': must be an Optax transformation"),
        (lambda: precond.inverse_root(damping=1e-6), "damping=1e-06: must be of type Damping"),
        (lambda: precond.scale_by_kronecker(precond.outer_products(), precond.eigh()), "root=.*must be of type Root"),
        (
            lambda: precond.adascale(optax.sgd, 1.0, 2, estimator=precond.large_batches.paper_gain),
            "estimator=.*Call this function",
        ),
        (lambda: precond.kfac(1.0, {"kernel": jnp.ones((2, 3))}), "layers= must be .* capture.layers, not a dict of"),
        (lambda: precond.ekfac(1.0, None), "layers=None: must be a mapping. Give those of a capture, capture.layers"),
        (lambda: precond.blocked(optax.identity(), mesh=3), "mesh=3: must be of type Mesh"),
        (lambda: precond.shampoo(1.0, views=[("kernel",)]), r"\('kernel',\) must be a \(pattern, view\) pair"),
        (lambda: precond.shampoo(1.0, views=[("kernel", {"axis": [0]})]), "must have `axes`"),
        (lambda: precond.shampoo(1.0, views=[("kernel", 3)]), "3 for 'kernel' must be a precond.View"),
    ]:
        with pytest.raises(TypeError, match=message):
            make()


def test_parameters_and_gradients_that_cannot_be_are_refused_by_path():
    tx, params = precond.shampoo(1.0), {"w": jnp.ones((4, 3)), "n": jnp.ones(3)}
    with pytest.raises(TypeError, match="'steps' is of int32, which has no gradient: leave it out"):
        tx.init(params | {"steps": jnp.zeros((), int)})
    with pytest.raises(ValueError, match=r"gradient of 'w' has the shape \(3, 4\), the parameter \(4, 3\)"):
        tx.update(params | {"w": jnp.ones((3, 4))}, tx.init(params), params)


def test_no_transformation_is_kept_alive_by_the_check_of_its_direction():
    array = jnp.ones(3)
    own = optax.stateless(lambda updates, params, bias=array: jax.tree.map(lambda g: g + bias[0], updates))
    alive = weakref.ref(own.update)
    precond.blocked(optax.identity(), otherwise=own).init({"kernel": jnp.ones((3, 2))})
    del own
    gc.collect()
    assert alive() is None


def test_init_calls_no_host_function_of_a_part_and_extra_arguments_of_others_pass():
    called = []

    def logged(updates, params=None):
        jax.debug.callback(lambda: called.append(1))
        return updates

    params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
    tx = precond.shampoo(1e-3, otherwise=optax.stateless(logged))
    state = tx.init(params)
    jax.effects_barrier()
    assert called == []
    tx.update(params, state, params, factor=3, replica="mine")

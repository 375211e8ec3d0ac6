"""The aliases' trajectories against dense float64 definitions."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from tests import reference
from tests.problem import distance, gradients, trajectory

pytestmark = pytest.mark.usefixtures("x64")

SHAPES = {"w": (9, 7), "t": (4, 3, 5)}
TENSORS = precond.views.tensors()
FEW = {"w": (8, 4)}  # where two ways to write the same are compared, which have all shapes in common


def check(tx, definition, tolerance=1e-12, shapes=SHAPES, seed=0):
    grads = gradients(shapes, steps=16, seed=seed)
    start = gradients(shapes, steps=1, seed=5)[0]
    path = trajectory(tx, start, grads)
    for k, w in start.items():
        assert distance(path[k], definition(w, [g[k] for g in grads]), w) < tolerance, k


@pytest.mark.parametrize(
    ("block", "period"),
    [(3, 3), *[pytest.param(b, p, marks=pytest.mark.slow) for b, p in ((3, 1), (64, 1), (64, 3))]],
)
def test_shampoo_without_grafting(block, period):
    given = {"lr": 0.01, "b1": 0.9, "b2": 0.95, "damping": 1e-4, "block": block, "period": period}
    tx = optax.chain(
        precond.blocked(
            precond.scale_by_kronecker(
                precond.outer_products(0.95),
                precond.inverse_root(damping=precond.relative(1e-4)),
                momentum=optax.ema(0.9),
                refresh=period,
            ),
            block_size=block,
            views=TENSORS,
        ),
        optax.scale(-0.01),
    )
    check(tx, lambda w, g: reference.shampoo_trajectory(w, g, **given))


def test_shampoo_with_its_graft():
    given = {"lr": 0.01, "b1": 0.9, "b2": 0.95, "damping": 1e-4, "block": 4, "period": 2, "exponent": 1 / 3}
    tx = precond.shampoo(0.01, damping=1e-4, block_size=4, refresh=2, views=TENSORS)
    check(tx, lambda w, g: reference.shampoo_trajectory(w, g, **given, graft="entries"))


def test_kl_shampoo_with_its_graft():
    given = {"lr": 0.01, "b1": 0.9, "b2": 0.95, "damping": 1e-4, "block": 4, "period": 2, "kl": True, "exponent": 0.5}
    tx = precond.kl_shampoo(0.01, b1=0.9, b2=0.95, damping=1e-4, block_size=4, refresh=2, views=TENSORS)
    check(tx, lambda w, g: reference.shampoo_trajectory(w, g, **given, graft="block"))


def test_kl_shampoo():
    given = {
        "lr": 0.01,
        "b1": 0.9,
        "b2": 0.95,
        "damping": 1e-4,
        "block": 4,
        "period": 2,
        "kl": True,
        "exponent": 0.5,
        "clip": 1.0,
    }
    given_too = {"block_size": 4, "refresh": 2, "magnitude": None, "views": TENSORS}
    tx = precond.kl_shampoo(0.01, b1=0.9, b2=0.95, damping=1e-4, **given_too)
    check(tx, lambda w, g: reference.shampoo_trajectory(w, g, **given))


def test_the_practical_form_of_kl_shampoo():
    given = {"lr": 0.01, "b1": 0.9, "b2": 0.95, "damping": 1e-4, "period": 3, "clip": 1.0}
    root = precond.roots.averaged_eigenvalues(0.95, damping=precond.relative(1e-4), transport=precond.roots.unchanged())
    refresh = precond.every(3, delay=1, warmup=1)
    given_too = {"root": root, "refresh": refresh, "magnitude": None, "views": TENSORS}
    tx = precond.kl_shampoo(0.01, b1=0.9, b2=0.95, **given_too)
    shapes = {"w": (6, 6), "t": (4, 3, 5)}  # whose first factors have full rank, and so one eigenbasis
    check(tx, lambda w, g: reference.practical_kl_shampoo_trajectory(w, g, **given), shapes=shapes)


def test_soap_by_eigh_with_the_newest_statistics():
    given = {"lr": 0.01, "b1": 0.9, "b2": 0.95, "eps": 1e-6, "period": 3, "start": 9}
    refresh = precond.every(3, start=9)  # by then the factors have full rank; before it, this is Adam
    given_too = {"refresh": refresh, "method": precond.eigh(), "transport": precond.roots.unchanged(), "views": TENSORS}
    tx = precond.soap(0.01, b1=0.9, b2=0.95, eps=1e-6, **given_too)
    check(tx, lambda w, g: reference.soap_trajectory(w, g, **given))


def test_soap_whose_second_moments_turn_with_its_bases():
    given = {"lr": 0.01, "b1": 0.9, "b2": 0.95, "eps": 1e-6, "period": 3, "start": 9}
    tx = precond.soap(
        0.01,
        b1=0.9,
        b2=0.95,
        eps=1e-6,
        refresh=precond.every(3, start=9),
        method=precond.eigh(),
        transport=precond.roots.rotated(),
        views=TENSORS,
    )
    check(tx, lambda w, g: reference.soap_trajectory(w, g, rotated=True, **given))


@pytest.mark.parametrize("period", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_kl_soap_by_eigh(period):
    given = {"b1": 0.9, "b2": 0.95, "eps": 1e-6, "damping": 1e-3}
    # By step 9 the factors have full rank; before it, this is Adam.
    tx = precond.kl_soap(0.01, **given, refresh=precond.every(period, start=9), method=precond.eigh(), views=TENSORS)
    check(tx, lambda w, g: reference.kl_soap_trajectory(w, g, lr=0.01, period=period, start=9, **given))


SQUARE = {"w": (6, 6)}  # whose first factors have full rank, and so one eigenbasis
# The factors of a larger gradient are nearly singular at first, and their bases enlarge rounding.
SIDES = [3, 6, *(pytest.param(side, marks=pytest.mark.slow) for side in (2, 4, 5))]


def in_turns(step):
    """The axes of a lone matrix that soap refreshes behind a step."""
    return (0, 1) if step == 1 else {0: (0,), 1: (1,)}.get((step - 1) % 10, ())


@pytest.mark.parametrize("side", SIDES)
def test_soap_by_its_defaults(side):
    given = {"lr": 0.01, "b1": 0.95, "b2": 0.95, "least": 1e-7, "due": in_turns}

    def definition(w, grads):
        return reference.soap_by_default_trajectory(w, grads, **given)

    check(precond.soap(0.01), definition, shapes={"w": (side, side)}, seed=2)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("delay", [0, 1])
def test_kl_soap_by_its_defaults_and_in_the_bases_of_its_own_step(delay, side):
    given = {"lr": 0.01, "b1": 0.9, "b2": 0.95, "least": 1e-4, "due": lambda step: (0, 1), "damping": 1e-4}
    tx = precond.kl_soap(0.01) if delay else precond.kl_soap(0.01, refresh=precond.every(1, warmup=1))

    def definition(w, grads):
        return reference.soap_by_default_trajectory(w, grads, delay=delay, **given)

    check(tx, definition, shapes={"w": (side, side)}, seed=2)


ADAM = precond.transforms.scale_by_diagonal(0.95, eps=1e-15, bias_correction=True)


@pytest.mark.parametrize("name", ["soap", "kl_soap"])
def test_soap_and_kl_soap_with_adams_norm(name):
    given = {"soap": {"b1": 0.95, "least": 1e-7, "due": in_turns}}.get(
        name, {"b1": 0.9, "least": 1e-4, "due": lambda step: (0, 1), "damping": 1e-4}
    )

    def definition(w, grads):
        return reference.soap_by_default_trajectory(w, grads, lr=0.01, b2=0.95, graft=True, **given)

    check(getattr(precond, name)(0.01, magnitude=ADAM), definition, shapes=SQUARE, seed=2)


STATISTICS_AND_ROOT = {
    "soap": lambda: (
        precond.outer_products(0.95),
        precond.eigenbasis(0.95, eps=None, transport=precond.roots.rotated()),
    ),
    "kl_shampoo": lambda: (
        precond.kl(0.95),
        precond.roots.waiting(precond.inverse_root(power=0.5, damping=precond.relative(1e-4))),
    ),
    "kl_soap": lambda: (
        precond.kl(0.95),
        precond.eigenbasis(
            0.95, eps=None, transport=precond.roots.rotated(), damping=precond.relative(1e-4), least=1e-4
        ),
    ),
}


@pytest.mark.parametrize(
    "name", ["kl_shampoo", *(pytest.param(x, marks=pytest.mark.slow) for x in ("soap", "kl_soap"))]
)
def test_a_magnitude_makes_each_block_of_an_alias_as_long_as_that_of_another_method(name):
    # KL-Shampoo has one by default.
    size, given = (
        (precond.transforms.scale_by_mean_square(0.95), {}) if name == "kl_shampoo" else (ADAM, {"magnitude": ADAM})
    )
    grads, start = gradients(FEW, steps=8), gradients(FEW, steps=1, seed=5)[0]
    refresh = precond.every(3, stagger=True)
    spelled = optax.chain(
        precond.blocked(
            precond.with_momentum(
                precond.per_block(optax.ema(0.9)),
                precond.graft(
                    precond.scale_by_kronecker(*STATISTICS_AND_ROOT[name](), refresh=refresh), precond.per_block(size)
                ),
            ),
            block_size=4,
        ),
        optax.scale_by_learning_rate(1e-3),
    )
    alias = getattr(precond, name)(1e-3, b1=0.9, b2=0.95, refresh=refresh, block_size=4, **given)
    ours, chain = trajectory(alias, start, grads), trajectory(spelled, start, grads)
    for k, w in start.items():
        assert distance(ours[k], chain[k], w) < 1e-12
    with pytest.raises(TypeError, match="magnitude"):
        getattr(precond, name)(1e-3, magnitude="adam")


def test_kl_soap_does_not_divide_rounding_by_itself():
    """A gradient of rank one is one entry in its own basis, which Adam's rule makes 1."""
    rng = np.random.default_rng(0)
    left, right = rng.integers(-8, 8, (128, 1)), rng.integers(-8, 8, (1, 32))  # exact in float32
    grads = {"kernel": jnp.asarray(left * right, jnp.float32)}
    tx = precond.kl_soap(1.0, refresh=precond.every(1))
    updates, _ = jax.jit(tx.update)(grads, tx.init(grads))
    unit = grads["kernel"] / jnp.linalg.norm(grads["kernel"])
    assert jnp.linalg.norm(updates["kernel"] + unit) < 0.3  # of 1; by rounding's own, it would be more than 10


def test_scale_by_kl_soap_is_kl_soap_without_rate_and_sign():
    grads, start = gradients(FEW, steps=4), gradients(FEW, steps=1, seed=5)[0]
    ended = optax.chain(precond.scale_by_kl_soap(), optax.add_decayed_weights(0.01), optax.scale_by_learning_rate(0.1))
    path = trajectory(ended, start, grads)
    whole = trajectory(precond.kl_soap(0.1, weight_decay=0.01), start, grads)
    for k, w in start.items():
        assert distance(whole[k], path[k], w) < 1e-12


def test_the_shampoo_alias_is_the_chain_that_it_documents():
    grads, start = gradients(FEW, steps=8), gradients(FEW, steps=1, seed=5)[0]
    spelled = optax.chain(
        precond.blocked(
            precond.graft(
                direction=precond.scale_by_kronecker(
                    statistics=precond.outer_products(decay=0.95),
                    root=precond.inverse_root(power=1 / 3, method=precond.newton(), damping=precond.relative(1e-6)),
                    momentum=optax.ema(0.9),
                    refresh=precond.every(3, stagger=True),
                ),
                magnitude=optax.scale_by_adam(b1=0.9, b2=0.95, eps=1e-15),
            ),
            block_size=4,
            otherwise=optax.scale_by_adam(b1=0.9, b2=0.95, eps=1e-15),
        ),
        optax.add_decayed_weights(1e-4),
        optax.scale_by_learning_rate(1e-3),
    )
    alias = precond.shampoo(
        1e-3, refresh=precond.every(3, stagger=True), method=precond.newton(), block_size=4, weight_decay=1e-4
    )
    ours, chain = trajectory(alias, start, grads), trajectory(spelled, start, grads)
    for k, w in start.items():
        assert distance(ours[k], chain[k], w) < 1e-12


WHOLE_PERIODS = {
    "shampoo": precond.every(3),
    "soap": precond.every(3, delay=1, warmup=1),
    "kl_soap": precond.every(3, delay=1, warmup=1),
    "kl_shampoo": precond.every(3),
}


@pytest.mark.parametrize(("name", "schedule"), WHOLE_PERIODS.items(), ids=WHOLE_PERIODS)
def test_a_number_of_steps_is_the_schedule_that_the_page_names(name, schedule):
    params = {"w": jax.ShapeDtypeStruct((3, 2), jnp.float32)}

    def program(refresh):
        tx = getattr(precond, name)(1e-3, refresh=refresh)
        traced = jax.make_jaxpr(tx.update)(params, jax.eval_shape(tx.init, params), params)
        return re.sub(r"0x[0-9a-f]+", "", str(traced))  # no addresses of functions

    assert program(3) == program(schedule)
    assert program(schedule._replace(delay=1 - schedule.delay)) != program(schedule)

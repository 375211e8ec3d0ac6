"""Every optimizer finds the minimum, of Optax's own problems and with their tolerance."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import catalog
from tests.conformance import harness

STEPS = 3_000


def square(tree):
    return optax.tree.norm(tree, squared=True)


def quadratic(*minimum):
    target = [jnp.asarray(x) for x in minimum]
    return optax.tree.zeros_like(target), target, lambda params: square(optax.tree.sub(params, target))


def rosenbrock():
    return jnp.zeros(2), jnp.ones(2), lambda p: (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2


PROBLEMS = {
    "vector": quadratic([1.0, -10.0, 1.0]),
    "rosenbrock": rosenbrock(),
    "matrix": quadratic([[3.0, -2.0], [1.0, 4.0]]),
    "mixed": quadratic([1.0, -1.0, 2.0], [[1.0, 0.0], [-1.0, 1.0]]),
}


def descend(tx, problem):
    """The last parameters, and the largest entry of each update."""
    start, _, loss = problem

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), optax.tree.max(jax.tree.map(jnp.abs, updates))

    (params, _), sizes = jax.jit(lambda carry: jax.lax.scan(step, carry, length=STEPS))((start, tx.init(start)))
    return params, sizes


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
@harness.each(catalog.DEFAULTS + catalog.WHOLE)
def test_the_minimum_is_found(case, problem):
    params, _ = descend(case.make(), problem)
    harness.assert_close(params, problem[1], rtol=3e-2, atol=3e-2)


@harness.each(catalog.VARIANTS + catalog.RECIPES + catalog.AROUND)
def test_every_variant_finds_the_minimum_of_a_matrix_problem(case):
    params, _ = descend(case.make(), PROBLEMS["matrix"])
    harness.assert_close(params, PROBLEMS["matrix"][1], rtol=3e-2, atol=3e-2)


@harness.each(catalog.DEFAULTS)
def test_no_update_is_many_learning_rates_long(case):
    _, sizes = descend(case.make(), PROBLEMS["matrix"])
    assert np.max(sizes) < 10 * case.kwargs["learning_rate"]

"""Statistics, roots and methods of a user that are wrong are refused by name, and not by JAX."""

import jax
import jax.numpy as jnp
import optax
import pytest

import precond

PARAMS = {"kernel": jnp.ones((4, 3))}
GRAMS, ROOT = precond.outer_products(), precond.inverse_root()


def made_of(f):
    return optax.stateless(lambda updates, params: jax.tree.map(f, updates))


def in_half(factors, derived, power, first):
    return jax.tree.map(lambda x: x.astype("float16"), derived)


def bare(a, power, ridge, least):
    return a


WRONG = {
    "a gradient as a factor": (made_of(lambda x: (x, None)), ROOT, r"factor of shape \(1, 4, 3\) for axis 0"),
    "the factor of another axis": (made_of(lambda x: (x.mT @ x, None)), ROOT, r"must give \(1, 4, 4\)"),
    "factors in bfloat16": (made_of(lambda x: ((x @ x.mT).astype("bfloat16"), None)), ROOT, "must be float32"),
    "roots in float16": (GRAMS, ROOT._replace(refresh=in_half), "dtypes of"),
    "a method without numbers": (
        GRAMS,
        precond.inverse_root(method=precond.Method("mine()", bare, None)),
        "the result of Method.root",
    ),
}


@pytest.mark.parametrize(("statistics", "root", "says"), WRONG.values(), ids=WRONG)
def test_a_wrong_part_is_refused_by_name(statistics, root, says):
    tx = precond.blocked(precond.scale_by_kronecker(statistics, root, refresh=precond.every(3, stagger=True)))
    with pytest.raises(TypeError, match=says):
        jax.jit(tx.update)(PARAMS, tx.init(PARAMS), PARAMS)

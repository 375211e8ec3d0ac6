"""Programs that forbid JAX's broadcasting between ranks, or its implicit changes of dtypes, may use every optimizer."""

import chex
import jax
import jax.numpy as jnp
import pytest

import precond
from tests import catalog

PARAMS = {"dense": {"kernel": jnp.ones((6, 4)), "bias": jnp.ones(4)}, "conv": jnp.ones((3, 3, 2, 5)), "scale": 1.0}


@pytest.mark.parametrize("case", catalog.DEFAULTS + catalog.RECIPES, ids=lambda case: case.name)
def test_an_update_is_traced_where_both_are_forbidden(case):
    tx = case.make()
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        state = jax.eval_shape(tx.init, PARAMS)
        updates, after = jax.eval_shape(lambda g, s: tx.update(g, s, g), PARAMS, state)
        jax.eval_shape(precond.metrics, after)
    chex.assert_trees_all_equal_shapes(updates, jax.eval_shape(lambda p: p, PARAMS))


def test_the_program_itself_keeps_its_rules():
    tx = precond.shampoo(1e-3)
    with jax.numpy_rank_promotion("raise"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
        with pytest.raises(ValueError, match="broadcast"):
            jnp.ones((2, 3)) + jnp.ones(3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shampoo", "soap", "kl_soap"])
def test_no_array_of_a_trace_is_kept(name):
    tx, params = getattr(precond, name)(1e-3), {"kernel": jnp.ones((6, 6))}
    state = tx.init(params)
    with jax.checking_leaks():
        jax.make_jaxpr(tx.update)(params, state, params)

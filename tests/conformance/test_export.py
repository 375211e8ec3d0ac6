"""What the FAQ says of `jax.export`: a step for a CPU can be exported, and one for a TPU cannot."""

import jax
import jax.numpy as jnp
import pytest

import precond


def exported(platform):
    tx, params = precond.shampoo(1e-3), {"kernel": jnp.ones((4, 3))}
    flat, treedef = jax.tree.flatten((params, tx.init(params), params))
    step = jax.jit(lambda *leaves: jax.tree.leaves(tx.update(*treedef.unflatten(leaves))))
    return jax.export.export(step, platforms=[platform])(*flat), step, flat


@pytest.mark.platforms
def test_a_step_for_a_cpu_can_be_exported_and_one_for_a_tpu_cannot():
    found, step, flat = exported("cpu")
    for actual, expected in zip(found.call(*flat), step(*flat), strict=True):
        assert jnp.array_equal(actual, expected)
    with pytest.raises(ValueError, match="custom calls"):
        exported("tpu")

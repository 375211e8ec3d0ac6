"""The precision of each product is the one that was asked for, read from the lowered program."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import precond

STACKS = {"8x8": jax.ShapeDtypeStruct((3, 8, 8), jnp.float32)}
X3 = lax.DotAlgorithmPreset.TF32_TF32_F32_X3


def dots(policy=None, method=None):
    """How each product of two matrices is to be computed in the program for a GPU, by its text."""
    tx = precond.scale_by_kronecker(
        precond.outer_products(), precond.inverse_root(method=method or precond.eigh()), precision=policy
    )
    state = jax.eval_shape(tx.init, STACKS)
    text = jax.jit(tx.update).trace(STACKS, state).lower(lowering_platforms=("cuda",)).as_text()
    return [line for line in text.splitlines() if "dot_general" in line]


def kinds(lines):
    return {
        "tf32" if "tf32" in line else " ".join(re.findall(r"precision = \[(\w+), (\w+)\]", line)[0]) for line in lines
    }


def test_everything_is_multiplied_at_the_highest_precision_by_default():
    assert kinds(dots()) == {"HIGHEST HIGHEST"}
    # But for the squarings that look for the largest eigenvalue: two loops, with one product each.
    lower = [line for line in dots(method=precond.composite()) if kinds([line]) != {"HIGHEST HIGHEST"}]
    assert kinds(lower) == {"DEFAULT DEFAULT"}
    assert len(lower) == 2


def test_each_part_has_the_precision_it_was_given_and_no_other():
    roots = [line for line in dots(precond.precision(roots=X3), precond.composite()) if "tf32" in line]
    projections = [line for line in dots(precond.precision(projections=X3), precond.composite()) if "tf32" in line]
    both = [line for line in dots(precond.precision(roots=X3, projections=X3), precond.composite()) if "tf32" in line]
    assert len(projections) == 2  # one an axis
    assert len(roots) > 9  # those of a step of degree 1, of one of degree 2, and with vectors
    assert len(both) == len(roots) + len(projections)


def test_statistics_may_be_emulated_but_not_in_less_than_float32():
    emulated = [line for line in dots(precond.precision(statistics=X3)) if "tf32" in line]
    assert len(emulated) == 2  # a product an axis
    for less in (lax.Precision.DEFAULT, lax.Precision.HIGH, lax.DotAlgorithmPreset.TF32_TF32_F32):
        with pytest.raises(ValueError, match="statistics need float32 or more"):
            precond.precision(statistics=less)

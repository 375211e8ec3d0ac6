"""The precision of each product is the one that was asked for, read from the lowered program."""

import inspect
import re

import jax
import jax.extend as jex
import jax.numpy as jnp
import pytest
from jax import lax

import precond
from tests.catalog import DEFAULTS, LAYERED, RECIPES, WHOLE, Case

pytestmark = pytest.mark.platforms

STACKS = {"8x8": jax.ShapeDtypeStruct((3, 8, 8), jnp.float32)}
X3 = lax.DotAlgorithmPreset.TF32_TF32_F32_X3


def dots(policy=None, method=None, platform="cuda"):
    """How each product of two matrices is to be computed in the program for a GPU or a TPU, by its text."""
    tx = precond.scale_by_kronecker(
        precond.outer_products(), precond.inverse_root(method=method or precond.eigh()), precision=policy
    )
    state = jax.eval_shape(tx.init, STACKS)
    text = jax.jit(tx.update).trace(STACKS, state).lower(lowering_platforms=(platform,)).as_text()
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


def test_on_a_tpu_gradients_meet_roots_in_three_passes_of_bfloat16():
    products = dots(platform="tpu")
    assert [kinds([line]) for line in products].count({"HIGH HIGH"}) == 2  # one an axis
    assert kinds(products) == {"HIGH HIGH", "HIGHEST HIGHEST"}
    assert kinds(dots(precond.precision(projections=lax.Precision.HIGHEST), platform="tpu")) == {"HIGHEST HIGHEST"}


def test_on_a_tpu_float64_is_not_narrowed(x64, monkeypatch):
    monkeypatch.setitem(STACKS, "8x8", jax.ShapeDtypeStruct((3, 8, 8), jnp.float64))
    assert kinds(dots(platform="tpu")) == {"HIGHEST HIGHEST"}


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


TEARFREE = Case("google_tearfree", precond.recipes.google_tearfree, {})
CASES = {case.name: case for case in (*DEFAULTS, *RECIPES, TEARFREE, *LAYERED, *WHOLE)}
WITHOUT = {"muon", "neumann", "mfac"}  # their own products have the precision that their method says, or the highest


def precisions_in(jaxpr):
    """The precisions of all products of a program, those of its inner programs included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"]
        for inner in jex.core.jaxprs_in_params(equation.params):
            yield from precisions_in(inner)


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_every_alias_and_recipe_whose_products_are_the_engines_passes_a_precision_on(case):
    policy = precond.precision(statistics=lax.DotAlgorithmPreset.F32_F32_F32, roots=X3, projections=lax.Precision.HIGH)
    if case.name in WITHOUT:
        assert "precision" not in inspect.signature(case.factory).parameters
        return
    qr = {"method": precond.recipes.meta_qr_basis()} if case.name == "meta_soap" else {}  # eigh has no products
    tx, params = case.make(precision=policy, **qr), {"kernel": jnp.ones((4, 3))}
    program = jax.make_jaxpr(lambda p: tx.update(p, tx.init(p), p))(params)
    seen = {x[0] if isinstance(x, tuple) else x for x in precisions_in(program.jaxpr)}
    captured = {policy.statistics} if case in LAYERED else set()  # K-FAC's factors come from the capture
    assert seen >= set(policy) - captured

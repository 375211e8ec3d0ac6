"""What the docs say an optimizer keeps is what it keeps."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

import precond
from tests.hlo import run_in_any_case

pytestmark = pytest.mark.optimized

BLOCKS = [(256, 256), (96, 33)]


def kept(m, n):
    factors, roots = (m * (m + 1) + n * (n + 1)) // 2, m * m + n * n
    return {
        "shampoo": factors + roots + 2 * m * n,
        "shampoo, one moment a block": factors + roots + m * n,
        "kl_shampoo": factors + roots + m * n,
        "soap": factors + roots + 2 * m * n,
        "kl_soap": factors + roots + 2 * m * n,
        "muon": m * n,
    }


@pytest.mark.parametrize("shape", BLOCKS, ids=str)
@pytest.mark.parametrize("name", kept(1, 1))
def test_the_state_has_the_documented_size(name, shape):
    alias, _, small = name.partition(", ")
    given = {"magnitude": precond.transforms.scale_by_mean_square(0.95)} if small else {}
    params = {f"layer_{i}": {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)} for i in range(3)}
    state = jax.eval_shape(getattr(precond, alias)(1e-3, **given).init, params)
    # What is kept of a block as a whole is not worth it.
    leaves = jax.tree_util.tree_leaves_with_path(state)
    numbers = sum(x.size for path, x in leaves if x.ndim > 2 or "diagonal" in jax.tree_util.keystr(path))
    assert numbers == 3 * kept(*shape)[name]


ROOTS = {"inverse_root": (precond.inverse_root, 2), "eigenbasis": (precond.eigenbasis, 6)}


@pytest.mark.parametrize(("root", "products"), ROOTS.values(), ids=ROOTS)
def test_a_step_between_refreshes_does_the_documented_multiplications(root, products):
    m, n, layers = 512, 128, 4
    stacks = {"512x128": jnp.zeros((layers, m, n))}
    never = root()._replace(refresh=lambda factors, derived, power, first: derived)
    tx = precond.scale_by_kronecker(precond.outer_products(), never, momentum=optax.ema(0.9))
    compiled = jax.jit(tx.update).lower(stacks, tx.init(stacks)).compile()
    statistics = 3 / 2 * m * m * n + 2 * m * n * n  # the larger factor's in three quarters
    documented = layers * (statistics + products * (m * m * n + m * n * n))
    assert 1 <= compiled.cost_analysis()["flops"] / documented < 1.05


SCHEDULES = {"at once": 10, "staggered": precond.every(10, stagger=True), "late": precond.every(4, start=5, phase=0)}


# Roots with one schedule and bases with another: the condition does not depend on what is refreshed.
FEW = [("shampoo", "staggered"), ("kl_soap", "at once")]


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        pytest.param(name, schedule, marks=[pytest.mark.slow] * ((name, schedule) not in FEW))
        for name in ("shampoo", "kl_shampoo", "soap", "kl_soap")
        for schedule in SCHEDULES
    ],
)
def test_a_step_without_a_refresh_decomposes_nothing(name, schedule):
    tx = getattr(precond, name)(1e-3, refresh=SCHEDULES[schedule])
    params = {"a": jnp.ones((4, 3)), "b": jnp.ones((4, 3))}
    text = jax.jit(tx.update).lower(params, tx.init(params), params).compile().as_text()
    assert "lapack" in text
    assert "lapack" not in run_in_any_case(text)


@pytest.mark.parametrize("name", [pytest.param("shampoo", marks=pytest.mark.slow), "soap"])
def test_a_step_of_several_models_without_a_refresh_decomposes_nothing(name):
    tx = getattr(precond, name)(1e-3, refresh=precond.every(10, stagger=True))
    params = {"a": jnp.ones((3, 4, 3))}
    state = jax.vmap(tx.init)(params)
    assert {x.shape for _, x in optax.tree.get_all_with_path(state, "count")} >= {(3,)}
    text = jax.jit(jax.vmap(tx.update)).lower(params, state, params).compile().as_text()
    assert "lapack" in text
    assert "lapack" not in run_in_any_case(text)


def test_rows_are_sliced_and_what_is_not_finite_is_kept_out_where_results_are_written():
    params = {f"{i}": jax.ShapeDtypeStruct((64, 64), jnp.float32) for i in range(20)}
    tx = precond.shampoo(1e-3)
    lowered = jax.jit(tx.update, donate_argnums=1).lower(params, jax.eval_shape(tx.init, params), params)
    assert "stablehlo.gather" not in lowered.as_text()
    entry = lowered.compile().as_text().split("\nENTRY ")[1]
    # Every stack is written by a fusion or a product, and no selection goes over it again.
    assert re.findall(r"= f32\[20,64,\d+\]\S* select\(", entry) == []
    assert re.findall(r"= f32\[20,64,\d+\]\S* fusion\(", entry)


def test_roots_from_before_the_step_are_not_copied():
    params = {f"{i}": jax.ShapeDtypeStruct((64, 64), jnp.float32) for i in range(20)}

    def copies(delay):
        tx = precond.shampoo(1e-3, refresh=precond.every(10, stagger=True, delay=delay))
        update = jax.jit(tx.update, donate_argnums=1)
        text = update.lower(params, jax.eval_shape(tx.init, params), params).compile().as_text()
        return len(re.findall(r"= f32\[20,64,64\]\S* copy\(", text))

    assert copies(delay=1) <= copies(delay=0)


def test_a_long_block_keeps_what_the_page_says():
    page = (
        (Path(__file__).parents[1] / "docs" / "costs.md")
        .read_text()
        .split("<!-- shapes begin -->")[1]
        .split("<!-- shapes end -->")[0]
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.strip().splitlines()[2:]]
    weights, small = {"w": jnp.zeros((1024, 64))}, {"memory": precond.Memory()}
    cut = {"block_size": 128}
    arguments = ({}, small, cut, cut | small, {"views": precond.views.small_side})
    assert len(rows) == len(arguments)
    for (_, said), given in zip(rows, arguments, strict=True):
        state = jax.eval_shape(precond.shampoo(1e-3, **given).init, weights)
        kept = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
        assert f"{kept / weights['w'].nbytes:.1f}" == said

"""Eight devices: explicit meshes, where arrays carry their sharding in their type, and automatic ones."""

import contextlib

import jax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests import catalog
from tests.conformance import harness

SHAPES = {"dense": {"kernel": (8, 4), "bias": (8,)}, "convolution": {"kernel": (2, 3, 4, 8)}, "scale": ()}
LAYOUT = {
    "dense": {"kernel": P("x", None), "bias": P("x")},
    "convolution": {"kernel": P(None, None, None, "x")},
    "scale": P(),
}


def make_mesh(kind):
    return jax.make_mesh((8,), ("x",), axis_types=(kind,))


def place(tree, mesh, layout):
    return jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), tree, layout)


def shardings(tree):
    return jax.tree.map(lambda x: jax.typeof(x).sharding, tree)


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_types_in_an_explicit_mesh_are_the_same_after_init_and_update_eager_and_jitted(case):
    mesh, tx = make_mesh(AxisType.Explicit), case.make()
    with jax.set_mesh(mesh):
        params = place(harness.normal(SHAPES), mesh, LAYOUT)
        state = tx.init(params)
        typeof = jax.tree.map(jax.typeof, state)
        assert jax.tree.map(jax.typeof, jax.jit(tx.init)(params)) == typeof
        updates, after = jax.jit(tx.update)(params, state, params)
        assert jax.tree.map(jax.typeof, after) == typeof
        eager, after = jax.eval_shape(tx.update, params, state, params)
        assert jax.tree.map(jax.typeof, after) == typeof
        assert shardings(updates) == shardings(eager) == shardings(params)


SQUARE = {"dense": {"kernel": (8, 8), "bias": (8,)}, "layers": (2, 8, 8), "scale": ()}
"""Factors of full rank: where one is singular, its eigenvectors are rounding's, and two programs round differently."""

ROWS = {"dense": {"kernel": P("x"), "bias": P("x")}, "layers": P(None, "x"), "scale": P()}
GRID = {"dense": {"kernel": P("x", "y"), "bias": P("y")}, "layers": P(None, "y", "x"), "scale": P()}


def assert_changes_no_update(case, mesh, layout, context, jit=jax.jit):
    """Two steps on the mesh equal two on one device, in float64; `jit` is for `init`."""
    with jax.enable_x64(True):
        params, grads = harness.normal(SQUARE, dtype="float64"), harness.gradients(SQUARE, 2, "float64")
        expected, _, _ = harness.run_jitted(case.make(), params, grads)
        with context:
            params, *grads = [place(tree, mesh, layout) for tree in (params, *grads)]
            tx = case.make()
            actual, _, _ = harness.run(harness.Jitted(jit(tx.init), jax.jit(tx.update)), params, grads)
        harness.assert_close(actual, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(AxisType.Explicit, marks=pytest.mark.slow), AxisType.Auto],  # the loops have both
    ids=["explicit", "auto"],
)
@harness.each(catalog.DEFAULTS, harness.ONE)
def test_a_mesh_changes_no_update(case, kind):
    mesh = make_mesh(kind)
    assert_changes_no_update(case, mesh, ROWS, jax.set_mesh(mesh))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto], ids=["explicit", "auto"])
def test_no_context_mesh_is_needed(kind):
    # Without one, jit takes no function that makes arrays of its own beside those of an explicit mesh.
    assert_changes_no_update(catalog.find("shampoo"), make_mesh(kind), ROWS, contextlib.nullcontext(), jit=lambda f: f)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto], ids=["explicit", "auto"])
def test_a_mesh_of_two_axes_changes_no_update(kind):
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind,) * 2)
    assert_changes_no_update(catalog.find("shampoo"), mesh, GRID, jax.set_mesh(mesh))

"""What is saved on some devices is restored on others, and the run goes on as if nothing had been."""

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import precond
from tests.checkpoint import one_of_two_processes
from tests.mesh import loops, test_kfac
from tests.processes import run_two

SAVED, AGAIN, LAST = 5, 8, 12
TURNS = precond.every(4, stagger=True)
OPTIMIZERS = {
    "shampoo": lambda: loops.make(refresh=TURNS),
    "soap": lambda: precond.soap(0.01, block_size=8, axis="data", refresh=TURNS._replace(delay=1, warmup=1)),
    "kfac": lambda: test_kfac.make(refresh=TURNS),
    "roots gathered": lambda: loops.make(axis=precond.sharded("data", roots="data"), refresh=TURNS),
}

ALIKE = {"kfac", "roots gathered", "soap"}  # the same mechanism as the others


def batches(mesh, start, stop, put=loops.put):
    x, y = loops.data()
    return [put((x + i, y), mesh, loops.P("data")) for i in range(start, stop)]


def trainer(tx, mesh, put=loops.put):
    """A jitted step and state, on a mesh."""
    params = put(loops.parameters(), mesh)
    return jax.jit(loops.trainer(tx)), params, jax.jit(tx.init)(params)


def go_on(step, params, state, mesh, start, stop, put=loops.put):
    for batch in batches(mesh, start, stop, put):
        params, state = step(params, state, *batch)
    return params, state


def save(path, params, state):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, (params, state))


def restore(path, params, state):
    """What was saved, placed as these are."""
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), (params, state))
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path, target)


def saved(make, mesh, path):
    """The parameters at the end of a run that is saved in its middle."""
    step, params, state = trainer(make(), mesh)
    params, state = go_on(step, params, state, mesh, 0, SAVED)
    save(path / "run", params, state)
    return go_on(step, params, state, mesh, SAVED, LAST)[0]


def resumed(make, mesh, path, name="run", start=SAVED):
    step, *fresh = trainer(make(), mesh)
    return go_on(step, *restore(path / name, *fresh), mesh, start, LAST)[0]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "make",
    [pytest.param(f, id=name, marks=[pytest.mark.slow] * (name in ALIKE)) for name, f in OPTIMIZERS.items()],
)
def test_a_run_saved_on_8_devices_goes_on_on_8_4_and_1(make, tmp_path):
    expected = saved(make, loops.mesh_of(), tmp_path)
    for count in (8, 4, 1):
        actual = resumed(make, loops.mesh_of(shape=(count,)), tmp_path)
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            if count == 8:  # sums in the same order
                np.testing.assert_array_equal(a, b)
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_a_run_without_a_mesh_goes_on_on_8_devices(tmp_path):
    def alone():
        return loops.make(axis=precond.sharded(None, multiple=8), refresh=TURNS)

    expected = saved(alone, loops.mesh_of(shape=(1,)), tmp_path)
    actual = resumed(OPTIMIZERS["shampoo"], loops.mesh_of(), tmp_path)
    chex.assert_trees_all_close(actual, expected, rtol=0, atol=1e-11)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("x64")
def test_a_run_saved_on_8_devices_goes_on_on_2_processes_and_on_8_devices_again(tmp_path):
    make, mesh = OPTIMIZERS["shampoo"], loops.mesh_of()
    expected = saved(make, mesh, tmp_path)
    run_two(one_of_two_processes, tmp_path, timeout=250)  # with two devices each
    actual = resumed(make, mesh, tmp_path, "again", AGAIN)
    chex.assert_trees_all_close(actual, expected, rtol=0, atol=1e-11)

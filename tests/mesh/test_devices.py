"""The number of devices: it changes no trajectory, and divides memory and work."""

import collections
import functools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from tests import hlo
from tests.mesh import loops

pytestmark = pytest.mark.platforms

SHAPES = {"wide": (20, 24), "layers": (3, 12, 12), "tall": (28, 4), "bias": (24,)}
SCHEDULES = {"in turns": precond.every(4, stagger=True), "at once": precond.every(4)}


def problem(dtype):
    """A noisy quadratic in parameters of ragged stacks: blocks of 8 by 8, 4 by 8, 8 by 4 and 4 by 4."""
    rng = np.random.default_rng(0)
    target = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    scale = {name: rng.uniform(0.5, 2, shape) for name, shape in SHAPES.items()}
    cast = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)  # noqa: E731
    return cast(target), cast(scale)


def run(count, steps, dtype, **arguments):
    """The parameters after each step, on so many devices."""
    target, scale = problem(dtype)
    mesh = loops.mesh_of(shape=(count,))
    tx = loops.make(mesh=mesh, **arguments)
    params = loops.put(jax.tree.map(jnp.zeros_like, target), mesh)

    def step(carry, key):
        params, state = carry
        noise = optax.tree.random_like(key, target)
        grads = jax.tree.map(lambda p, t, s, n: s * (p - t) + 0.3 * n, params, target, scale, noise)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    keys = jax.random.split(jax.random.key(0), steps)
    (_, state), path = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), keys))(params)
    return jax.tree.map(np.asarray, path), state


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
@pytest.mark.parametrize("schedule", [SCHEDULES["in turns"], SCHEDULES["at once"]], ids=SCHEDULES)
def test_fifty_steps_are_the_same_on_1_2_4_and_8_devices(schedule):
    alone, _ = run(1, 50, "float64", refresh=schedule)
    assert max(np.abs(x[-1]).max() for x in alone.values()) > 0.5  # it went somewhere
    for count in (2, 4, 8):
        path, _ = run(count, 50, "float64", refresh=schedule)
        chex.assert_trees_all_close(path, alone, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_bfloat16_parameters_differ_by_one_rounding_at_most():
    # Gradients are given: a program may compute them with more than the precision of bfloat16, another may not.
    params, _ = problem("bfloat16")
    rng = np.random.default_rng(2)
    grads = [jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), params) for _ in range(6)]

    def updates(count):
        mesh = loops.mesh_of(shape=(count,))
        tx, out = loops.make(mesh=mesh), []
        state, update = tx.init(loops.put(params, mesh)), jax.jit(tx.update)
        for g in grads:
            u, state = update(loops.put(g, mesh), state)
            out.append(jax.tree.map(lambda x: np.asarray(x, np.float32), u))
        assert {x.dtype for x in stacks_of(state).values()} <= {jnp.dtype(t) for t in ("float32", "int32")}
        return jax.tree.leaves(out)

    for a, b in zip(updates(8), updates(1), strict=True):
        assert np.all(np.abs(a - b) <= np.spacing(np.abs(b)) * 2.0**16)


def lowered(axis="data", **arguments):
    """A data-parallel training step, lowered; and its state."""
    return loops.jitted(functools.partial(loops.make, **arguments), axis=axis, lower=True)


COLLECTIVE = re.compile(
    r"= (\(?\w+\[.*) (all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
)


def collectives(program):
    """How many numbers each kind of collective gives a device."""
    found = collections.Counter()
    for shape, kind in COLLECTIVE.findall(program.compile().as_text()):
        found[kind] += sum(math.prod(int(d) for d in s.split(",") if d) for s in re.findall(r"\[([\d,]*)\]", shape))
    return found


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_a_step_reduces_gradients_and_gathers_directions_and_nothing_else(schedule):
    program, state = lowered(refresh=schedule)
    gradients = sum(x.size for x in jax.tree.leaves(loops.parameters()))
    directions = sum(x.size for path, x in stacks_of(state).items() if path.endswith(".nu"))
    # One number more is summed: how many blocks have no finite gradient.
    assert collectives(program) == {"all-reduce": gradients + 1, "all-gather": directions}


@pytest.mark.usefixtures("x64")
def test_directions_travel_in_the_shape_of_their_stack_and_no_device_looks_at_the_blocks_of_others():
    program, state = lowered()
    text, (stack,) = program.as_text(), [x.shape for path, x in stacks_of(state).items() if path.endswith(".nu")]
    assert hlo.results_of(text, "all_gather") == [stack]
    rows = {shape[0] for shape in hlo.reduced_by(text) if shape[1:] == stack[1:]}
    assert max(rows) == stack[0] // 8


def stacks_of(state):
    return {
        jax.tree_util.keystr(path): x
        for path, x in jax.tree_util.tree_flatten_with_path(state[0].stacks)[0]
        if x.ndim and x.size
    }


@pytest.mark.usefixtures("x64")
def test_each_of_8_devices_keeps_an_eighth_and_one_block_of_every_stack():
    _, state = lowered()
    tx = loops.make(axis=None)
    whole = stacks_of(jax.eval_shape(tx.init, loops.parameters()))
    for path, x in stacks_of(state).items():
        (shard,) = {s.data.shape for s in x.addressable_shards}
        block = np.prod(x.shape[1:], dtype=int)
        assert np.prod(shard) <= np.prod(whole[path].shape) / 8 + block


def test_and_decomposes_an_eighth():
    # The shapes of what the solver is given, in the program that one device runs.
    def decomposed(count):
        tx = loops.make(mesh=loops.mesh_of(shape=(count,)), method=precond.eigh(), refresh=1)
        params = loops.parameters("float32")
        traced = jax.jit(tx.update).trace(params, jax.eval_shape(tx.init, params), params)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        batches = re.findall(r"custom_call @cusolver_syevd.*: \(tensor<([\dx]+)x8x8xf32>\)", text)
        return [int(np.prod([int(d) for d in b.split("x")])) for b in batches]

    whole, shard = decomposed(1), decomposed(8)
    assert len(whole) == len(shard) == 1
    assert whole[0] == 8 * shard[0] > 0


def test_directions_on_the_wire_may_be_rounded_once():
    exact, _ = run(8, 1, "float32")
    rounded, _ = run(8, 1, "float32", axis=precond.sharded("data", gather_dtype="bfloat16"))
    for name in ("wide", "layers", "tall"):
        error = np.abs(rounded[name] - exact[name])
        assert np.all(error <= 2.0**-8 * np.abs(exact[name]))
        assert np.any(error > 0)
    np.testing.assert_array_equal(rounded["bias"], exact["bias"])


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
def test_or_by_chance_and_then_alike_on_every_mesh():
    def trained(count, **how):
        return run(count, 50, "float64", axis=precond.sharded("data", **how))[0]

    chance = precond.transforms.stochastic_rounding()
    eight, one, nearest = (
        trained(8, rounding=chance),
        trained(1, rounding=chance),
        trained(8, gather_dtype="bfloat16"),
    )
    for name in ("wide", "layers", "tall"):
        np.testing.assert_allclose(eight[name], one[name], rtol=0, atol=1e-12)
        assert np.abs(eight[name] - nearest[name]).max() > 1e-5


@pytest.mark.usefixtures("x64")
def test_bfloat16_makes_a_quarter_of_the_bytes_of_float64():
    def gathered(**how):
        # As lowered: the CPU's compiler knows no bfloat16.
        program, _ = lowered(axis=precond.sharded("data", **how))
        (kind,) = set(re.findall(r"stablehlo.all_gather.*-> tensor<[\dx]+x(\w+)>", program.as_text()))
        return kind

    assert gathered() == "f64"
    assert gathered(gather_dtype="bfloat16") == "bf16"
    assert gathered(rounding=precond.transforms.stochastic_rounding()) == "bf16"


def test_gradients_off_the_mesh_of_the_state_are_refused():
    mesh, params = loops.mesh_of(shape=(8,), kind=jax.sharding.AxisType.Explicit), {"kernel": jnp.ones((8, 4))}
    there = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    tx = precond.soap(1e-2, axis=mesh.axis_names[0])
    state = tx.init(there)
    for update in (tx.update, jax.jit(tx.update)):
        with pytest.raises(ValueError, match="state= is on a mesh with explicit axes, but the gradients are not"):
            update(params, state, there)
    assert jnp.isfinite(tx.update(there, state, there)[0]["kernel"]).all()


@pytest.mark.parametrize("refresh", [None, 4])
def test_over_an_axis_roots_are_one_step_late_by_default(refresh):
    period, turns = (20, True) if refresh is None else (refresh, False)
    late, now = (precond.every(period, stagger=turns, delay=delay) for delay in (1, 0))
    grads = {"kernel": jax.random.normal(jax.random.key(0), (16, 8))}

    def updates(refresh, **axis):
        tx = precond.shampoo(1e-2, block_size=4, refresh=refresh, **axis)
        return tx.update(grads, jax.jit(tx.init)(grads), grads)[0]["kernel"]

    over = {"axis": "data", "mesh": loops.mesh_of()}
    np.testing.assert_allclose(updates(refresh, **over), updates(late, **over), rtol=1e-6)
    np.testing.assert_allclose(updates(refresh), updates(now), rtol=1e-6)
    assert jnp.abs(updates(refresh) - updates(refresh, **over)).max() > 1e-4

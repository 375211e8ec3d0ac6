"""What is gathered: directions in every step, or roots where they are refreshed, or either over one axis of two."""

import functools
import re

import chex
import jax
import numpy as np
import pytest

import precond
from tests.mesh import loops, test_ekfac, test_kfac
from tests.mesh.test_devices import COLLECTIVE, SCHEDULES, run, stacks_of

pytestmark = pytest.mark.usefixtures("x64")

ROOTS = precond.sharded("data", roots="data")
HYBRID = precond.sharded(("data", "model"), roots="model")
AT_ONCE, IN_TURNS = precond.every(3), precond.every(2, stagger=True)
SLOW = pytest.mark.slow
STACKED = precond.sharded(None, multiple=8)
SOAP = functools.partial(precond.soap, 0.01, block_size=8, refresh=precond.every(2, stagger=True, delay=1, warmup=1))
ROTATED = precond.roots.rotated()
KL = functools.partial(precond.kl_shampoo, 0.01, block_size=8, refresh=precond.every(3, stagger=True))

EIGENVALUES = precond.roots.averaged_eigenvalues()
AVERAGED = functools.partial(KL, root=EIGENVALUES, refresh=precond.every(2, stagger=True, delay=1, warmup=1))


def with_axis(make, axis):
    return lambda _, mesh: make(axis=axis, mesh=mesh)


def two(tx_of, kind, **arguments):
    return loops.jitted(tx_of, mesh=loops.mesh_of(kind, (4, 2), ("data", "model")), axis=("data", "model"), **arguments)


AUTO, EXPLICIT = functools.partial(two, kind=loops.AUTO), functools.partial(two, kind=loops.EXPLICIT, context=True)
CASES = {
    "in turns": (loops.make, ROOTS, loops.LOOPS["auto"], SLOW),  # so are the moments below
    "at once": (functools.partial(loops.make, refresh=AT_ONCE), ROOTS, loops.LOOPS["auto"], SLOW),
    "over one axis of two": (loops.make, HYBRID, AUTO, ()),
    "over one axis of two, explicit": (loops.make, HYBRID, EXPLICIT, SLOW),
    "fully sharded": (loops.make, ROOTS, loops.LOOPS["explicit, fully sharded"], SLOW),
    "scanned": (loops.make, ROOTS, loops.LOOPS["auto, scanned"], SLOW),
    "shard_map, state replicated": (loops.make, ROOTS, loops.LOOPS["shard_map, state replicated"], ()),
    "pmap": (loops.make, ROOTS, loops.LOOPS["pmap"], SLOW),
    "vmapped ensemble": (loops.make, ROOTS, loops.LOOPS["vmapped ensemble"], SLOW),
    "soap": (SOAP, ROOTS, loops.LOOPS["auto"], SLOW),
    "soap, rotated moments": (functools.partial(SOAP, transport=ROTATED), ROOTS, loops.LOOPS["auto"], ()),
    "soap, rotated moments, vmapped": (
        functools.partial(SOAP, transport=ROTATED),
        ROOTS,
        loops.LOOPS["vmapped ensemble"],
        SLOW,
    ),
    "kl_shampoo": (KL, ROOTS, loops.LOOPS["auto"], SLOW),
    "kl_shampoo, averaged eigenvalues": (AVERAGED, ROOTS, loops.LOOPS["auto"], SLOW),
    "kfac": (test_kfac.make, ROOTS, loops.LOOPS["auto"], SLOW),
    "kfac over one axis of two": (test_kfac.make, HYBRID, AUTO, SLOW),
    "ekfac": (test_ekfac.make, ROOTS, loops.LOOPS["auto"], SLOW),
    "ekfac over one axis of two": (test_ekfac.make, HYBRID, AUTO, SLOW),
}


@pytest.mark.parametrize(
    ("make", "axis", "loop"), [pytest.param(*case, id=name, marks=marks) for name, (*case, marks) in CASES.items()]
)
def test_what_is_gathered_changes_no_step(make, axis, loop):
    actual, expected = loop(with_axis(make, axis)), loops.one_device(make(axis=STACKED))
    chex.assert_trees_all_close(actual, expected, rtol=0, atol=1e-12)


@SLOW
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_fifty_steps_are_the_same_on_1_2_4_and_8_devices(schedule):
    alone, _ = run(1, 50, "float64", refresh=schedule, axis=STACKED)
    for count in (1, 2, 4, 8):
        path, _ = run(count, 50, "float64", refresh=schedule, axis=ROOTS)
        chex.assert_trees_all_close(path, alone, rtol=0, atol=1e-12)


def gathers(program):
    """The sizes of all-gathers of a compiled program: those of every step, and those inside a branch or a loop."""
    text = program.compile().as_text()
    named = re.findall(r"(?:true_computation|false_computation|body)=%?([\w.\-]+)", text)
    named += [n.strip(" %") for group in re.findall(r"branch_computations=\{([^}]*)\}", text) for n in group.split(",")]
    found = {True: [], False: []}
    for body in re.split(r"\n(?=(?:ENTRY )?%?[\w.\-]+ \()", text):
        name = re.match(r"(?:ENTRY )?%?([\w.\-]+)", body)[1]
        for line in body.splitlines():
            kind = COLLECTIVE.search(line)
            if kind and kind[2] == "all-gather":
                size = re.search(r"= \(?\w+\[([\d,]*)\]", line)[1]
                found[name in named].append(int(np.prod([int(d) for d in size.split(",")])))
    return found[False], found[True]


def lowered(refresh, axis):
    return loops.jitted(functools.partial(loops.make, refresh=refresh), axis=axis, lower=True)


def test_a_step_without_a_refresh_gathers_nothing():
    program, _ = lowered(AT_ONCE, ROOTS)
    always, sometimes = gathers(program)
    assert not always
    assert sometimes
    always, sometimes = gathers(lowered(AT_ONCE, "data")[0])
    assert always
    assert not sometimes


def test_in_turns_only_what_is_due_is():
    # The first step has four turns, each of a later step has one: it is the same program.
    always, due = gathers(lowered(precond.every(4, stagger=True), ROOTS)[0])
    assert not always
    _, everything = gathers(lowered(AT_ONCE, ROOTS)[0])
    assert sum(everything) == 4 * sum(due) > 0


@pytest.mark.parametrize("axis", [ROOTS, HYBRID], ids=["over all", "over one axis of two"])
def test_statistics_are_divided_over_all_devices_and_roots_over_some(axis):
    mesh = loops.mesh_of() if axis is ROOTS else loops.mesh_of(shape=(4, 2), names=("data", "model"))
    parts = 1 if axis is ROOTS else 4
    params = loops.put(loops.parameters(), mesh)
    state = jax.jit(loops.make(axis).init)(params)
    seen = set()
    for path, x in stacks_of(state).items():
        divided = ".statistics" in path or ".block_ids" in path  # whose blocks are is needed by no step
        seen.add(divided)
        assert x.addressable_shards[0].data.shape[0] == x.shape[0] // (8 if divided else parts)
    assert seen == {True, False}


def test_roots_over_another_axis_are_an_error():
    with pytest.raises(ValueError, match=r"roots=\('model',\): these are gathered over some of the axes \('data',\)"):
        precond.sharded("data", roots="model")


def test_roots_from_the_host_are_not_gathered_over_devices():
    mesh = loops.mesh_of()
    for refresh, roots in ((precond.on_host(2), "data"), (precond.on_host(2), ("data",))):
        tx = precond.shampoo(1e-3, refresh=refresh, axis=precond.sharded("data", roots=roots), mesh=mesh)
        with pytest.raises(ValueError, match=r"roots=\('data',\) gathers roots over devices"):
            tx.init(loops.put(loops.parameters(), mesh))

"""What is gathered where its cost decides: at both sides of every threshold, and on any mesh the same for the run."""

import functools

import chex
import jax
import optax
import pytest

import precond
from tests.mesh import loops

BLOCK = 64


@functools.cache
def planned(roots, period=20, devices=(8,), names=("data",), block=BLOCK):
    root = precond.inverse_root(method=precond.newton(iterations=1))
    engine = precond.scale_by_kronecker(precond.outer_products(), root, momentum=optax.ema(0.9), refresh=period)
    tx = precond.blocked(engine, block_size=block, axis=precond.sharded(names, roots=roots))
    params = {"kernel": jax.ShapeDtypeStruct((4 * block, 4 * block), "float32")}
    return precond.plan(tx, params, mesh=dict(zip(names, devices, strict=True)))


by_cost = functools.partial(precond.by_cost, flops_per_byte=1e9)  # products are free


def gathered(found, block=BLOCK):
    """Directions are in every step; of roots, by `plan`, those of a step that refreshes all."""
    return "directions" if found.wire["all-gather"] == 16 * block**2 * 4 * 7 // 8 else "roots"


def test_without_memory_to_spare_directions_are_gathered_as_by_default():
    assert planned(by_cost(0)) == planned(())
    assert planned(by_cost(1e12)) == planned("data")


def test_roots_are_where_they_fit():
    more = sum(planned("data").bytes.values()) - sum(planned(()).bytes.values())
    assert gathered(planned(by_cost(more))) == "roots"
    assert gathered(planned(by_cost(more - 1))) == "directions"


@pytest.mark.parametrize(("period", "expected"), [(1, "directions"), (2, "directions"), (3, "roots")])
def test_and_where_they_are_fewer_bytes(period, expected):
    # Of a square block the two roots are twice its direction.
    assert gathered(planned(by_cost(1e12), period)) == expected


@pytest.mark.parametrize(("block", "expected"), [(512, "roots"), (1024, "directions")])
def test_and_where_their_products_are_fewer_than_a_byte_is_worth(block, expected):
    # With the defaults: every 20 steps, 1000 operations a byte. In seven of eight devices 4 d³ operations are for
    # nothing, and seven eighths of the bytes of a direction but for a twentieth of two roots are saved.
    assert (4 * block**3 < 1000 * (4 - 8 / 20) * block**2) == (expected == "roots")
    assert gathered(planned(precond.by_cost(1e15), block=block), block) == expected


def test_over_one_axis_of_two_where_memory_is_enough_for_that_alone():
    meshes = {"devices": (4, 2), "names": ("data", "model")}
    more = sum(planned("model", **meshes).bytes.values()) - sum(planned((), **meshes).bytes.values())
    assert planned(by_cost(more), **meshes) == planned("model", **meshes)
    assert planned(by_cost(more - 1), **meshes) == planned((), **meshes)


def test_one_device_and_roots_of_the_host_leave_nothing_to_choose():
    assert planned(by_cost(1e12), devices=(1,)).wire == {}
    host = precond.on_host(4)
    assert planned(by_cost(1e12), host) == planned((), host)


@pytest.mark.slow  # the mechanism of a choice that is named
@pytest.mark.usefixtures("x64")
def test_a_choice_changes_no_step():
    axis = precond.sharded("data", roots=by_cost(1e12))
    actual = loops.jitted(functools.partial(make, axis), eager_init=True)
    expected = loops.one_device(make(precond.sharded(None, multiple=8)))
    chex.assert_trees_all_close(actual, expected, rtol=0, atol=1e-12)


def make(axis, *_):
    return loops.make(axis=axis, refresh=precond.every(3))


def test_what_cannot_be_chosen_by_is_an_error():
    with pytest.raises(ValueError, match="memory=-1: must be at least 0"):
        precond.by_cost(-1)
    with pytest.raises(ValueError, match="flops_per_byte=0: must be at least 1"):
        precond.by_cost(1, flops_per_byte=0)

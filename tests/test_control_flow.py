"""Conditions and loops under `jax.vmap`: what no member asks for is not run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precond.control_flow import loop_between, run_if
from tests.hlo import run_in_any_case

pytestmark = pytest.mark.optimized


def counted(function, *given):
    """The result, and the marks that were passed on the way."""
    marks = []

    def mark(value):
        jax.debug.callback(lambda x: marks.append(int(x)), value)

    out = jax.block_until_ready(jax.jit(lambda *x: function(mark, *x))(*given))
    jax.effects_barrier()
    return out, sorted(marks)


@pytest.mark.parametrize(
    ("first", "last", "turns"),
    [
        ([0, 0, 0], [2, 2, 2], [0, 1]),
        ([3, 1, 2], [4, 2, 3], [1, 2, 3]),
        ([0, 5, 0], [0, 6, 0], [5]),
        ([0, 0], [0, 0], []),
    ],
)
def test_a_mapped_loop_runs_the_turns_that_some_member_needs(first, last, turns):
    def run(mark, first, last):
        def body(turn, total, given):
            mark(turn)
            return total + given * (1 + turn)

        return jax.vmap(lambda a, b: loop_between(a, b, body, jnp.zeros(()), 2.0, most=8))(first, last)

    out, marks = counted(run, jnp.asarray(first), jnp.asarray(last))
    expected = [2.0 * sum(1 + t for t in range(a, b)) for a, b in zip(first, last, strict=True)]
    np.testing.assert_array_equal(out, expected)
    assert marks == turns


@pytest.mark.parametrize(
    ("predicate", "branches"), [([True, True], [1]), ([False, False], [0]), ([True, False], [0, 1])], ids=str
)
def test_a_mapped_condition_runs_the_branches_that_some_member_needs(predicate, branches):
    def run(mark, predicate, x):
        def branch(number):
            def function(x):
                mark(number)
                return x + number

            return function

        return jax.vmap(lambda p, x: run_if(p, branch(1), branch(0), x))(predicate, x)

    out, marks = counted(run, jnp.asarray(predicate), jnp.zeros(2))
    np.testing.assert_array_equal(out, np.asarray(predicate, float))
    assert sorted(set(marks)) == branches


@pytest.mark.parametrize("mapped", [False, True], ids=["alone", "mapped"])
@pytest.mark.parametrize("most", [1, 2])
def test_work_that_reads_no_turn_stays_in_the_loop(most, mapped):
    # The compiler would take it out, since it is the same in every turn; then it would run if there is no turn, too.
    def run(last, x):
        def body(turn, old, x):
            return jnp.linalg.eigh(x[turn if most > 1 else 0])[1]

        return loop_between(0, last, body, x[0] * 0, x, most=most)

    x = jnp.ones((4, most, 3, 3)) if mapped else jnp.ones((most, 3, 3))
    text = jax.jit(jax.vmap(run, (None, 0)) if mapped else run).lower(1, x).compile().as_text()
    assert "lapack_ssyevd" in text
    assert "lapack" not in run_in_any_case(text)


def test_the_turns_may_depend_on_the_device_and_on_the_member():
    def member(last):
        turn = lambda i, total, by: total + jnp.where(i == 0, 1, by)  # noqa: E731
        return loop_between(0, last, turn, 0 * last, 2 + 0 * last, most=4)

    mesh, spec = jax.sharding.Mesh(jax.devices()[:4], "data"), jax.sharding.PartitionSpec("data")
    run = jax.jit(jax.shard_map(jax.vmap(member), mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_array_equal(run(jnp.arange(8) % 4), [0, 1, 3, 5, 0, 1, 3, 5])

"""Stacks that are said to be some, and views lifted from one layer to many."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precond import views
from precond.blocks import View, layout_of
from precond.blocks.views.matrices import with_batch_axes
from tests.blocks.test_layout import parameters


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_what_matches_is_read_without_its_axis_and_the_rest_as_ever():
    how = views.stacked("^layers/", 1)
    assert how("layers/mlp/kernel", leaf(64, 6, 128)) == View(((0,), (2,)))
    assert how("layers/attention/query/kernel", leaf(64, 6, 4, 16)) == View(((0,), (2, 3)))
    assert how("layers/norm/scale", leaf(64, 6)) is None
    assert how("layers/qkv/kernel", leaf(64, 6, 192)) == View(((0,), (3,)), (), (64, 6, 3, 64))
    assert how("mlp/kernel", leaf(64, 128)) == View(((0,), (1,)))


def test_stacks_compose():
    how = views.stacked("^a/", 0, otherwise=views.stacked("^b/", -1, otherwise=views.torch))
    assert how("a/conv/weight", leaf(6, 64, 32, 3, 3)) == View(((1,), (2, 3, 4)))
    assert how("b/conv/weight", leaf(64, 32, 3, 3, 6)) == View(((0,), (1, 2, 3)))
    assert views.stacked("a", (0, 1))("a/kernel", leaf(2, 3, 8, 9)) == View(((2,), (3,)))
    pairs = views.rules(("experts", views.stacked("experts", 0)), otherwise=views.haiku)
    assert pairs("experts/kernel", leaf(4, 8, 9)) == View(((1,), (2,)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: views.stacked("("), ValueError, "not a regular expression"),
        (lambda: views.stacked("a", 0.5), TypeError, "must be a whole number"),
        (lambda: views.stacked("a", 2)("a/kernel", leaf(8, 9)), ValueError, "does not fit 'a/kernel' of shape"),
        (lambda: views.stacked("a", (0, -2))("a/kernel", leaf(8, 9)), ValueError, "does not fit"),
        (lambda: views.maxtext(-1), ValueError, "scan_axis"),
        (
            lambda: with_batch_axes((1,), lambda *_: View((0,), shape=(-1,)))("a", leaf(4, 3, 5)),
            ValueError,
            "lies within",
        ),
    ],
)
def test_what_cannot_be_stacked_says_why(make, error, message):
    with pytest.raises(error, match=message):
        make()


@given(parameters(), st.integers(0, 3), st.integers(1, 3))
def test_blocks_of_a_stack_are_those_of_its_layers(problem, axis, length):
    for name, (shape, view) in problem.items():
        if view is None:
            continue
        place = min(axis, len(shape))
        one = np.random.default_rng(0).standard_normal((length, *shape)).astype(np.float32)
        whole = jnp.asarray(np.moveaxis(one, 0, place))
        layout = layout_of({name: whole}, with_batch_axes((place,), lambda *_, view=view: view), 2)
        stacks = jax.jit(layout.pack)([whole])
        np.testing.assert_array_equal(jax.jit(layout.unpack)(stacks, [jnp.zeros_like(whole)])[0], whole)
        pack = jax.jit(layout_of({name: one[0]}, lambda *_, view=view: view, 2).pack)
        each = [pack([jnp.asarray(x)]) for x in one]
        for key, stack in stacks.items():
            ours = sorted(np.asarray(block).tobytes() for block in stack)
            assert ours == sorted(np.asarray(block).tobytes() for layer in each for block in layer[key])
        assert math.prod(whole.shape) == sum(stack.size for stack in stacks.values())

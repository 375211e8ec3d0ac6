"""Parameters as stacks and back."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precond.blocks import View, fingerprint, layout_of, ragged
from tests import reference


def views_of(views):
    return lambda path, leaf: views[path]


@st.composite
def parameters(draw):
    """A few parameters of random shape, each with a random view (or none)."""
    out = {}
    for name in "abc"[: draw(st.integers(1, 3))]:
        shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
        order = draw(st.permutations(range(len(shape))))
        used = order[: draw(st.integers(1, len(shape)))]
        cuts = draw(st.integers(1, len(used)))
        groups = tuple(tuple(used[i::cuts]) for i in range(cuts))
        passive = (0,) if draw(st.booleans()) and len(groups) > 1 else ()
        view = draw(st.sampled_from([View(groups, passive), None]))
        out[name] = shape, view
    return out


@given(parameters(), st.sampled_from([None, 1, 2, 3]))
def test_unpacking_is_the_inverse_of_packing(problem, block_size):
    leaves = [
        jnp.arange(math.prod(s), dtype=jnp.float32).reshape(s) + 100 * i for i, (s, _) in enumerate(problem.values())
    ]
    tree = dict(zip(problem, leaves, strict=True))
    layout = layout_of(tree, views_of({k: v for k, (_, v) in problem.items()}), block_size)
    stacks = layout.pack(leaves)
    assert {n: x.shape for n, x in stacks.items()} == {n: x.shape for n, x in layout.stacks.items()}
    viewed = sum(x.size for x, v in zip(leaves, layout.viewed, strict=True) if v)
    assert sum(x.size for x in stacks.values()) == viewed  # no padding, nothing twice
    blank = [jnp.zeros_like(x) if v else x for x, v in zip(leaves, layout.viewed, strict=True)]
    for x, y in zip(layout.unpack(stacks, blank), leaves, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("size", [3, 8, 64])
def test_the_blocks_are_those_of_the_definition(size):
    x = np.random.default_rng(0).standard_normal((20, 9)).astype(np.float32)
    stacks = layout_of({"w": x}, lambda *_: View((0, 1)), size).pack([jnp.asarray(x)])
    ours = {b.tobytes() for stack in stacks.values() for b in np.asarray(stack)}
    assert ours == {x[b].tobytes() for b in reference.cut(x, size)}


def test_batch_axes_merged_axes_and_split_axes_read_as_documented():
    w = jnp.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    for view, expected in [
        (View((2, 3)), np.asarray(w).reshape(6, 4, 5)),
        (View(((0, 1, 2), 3)), np.asarray(w).reshape(1, 24, 5)),
        (View((3, (0, 2))), np.transpose(w, (1, 3, 0, 2)).reshape(3, 5, 8)),
        (View((0, 2), shape=(6, 2, 10)), np.asarray(w).reshape(6, 2, 10).transpose(1, 0, 2)),
        (View((0, 1), shape=(-1, 5)), np.asarray(w).reshape(1, 24, 5)),
    ]:
        layout = layout_of({"w": w}, lambda *_, view=view: view, None)
        (stack,) = layout.pack([w]).values()
        np.testing.assert_array_equal(stack, expected)
        np.testing.assert_array_equal(layout.unpack(layout.pack([w]), [w])[0], w)


def test_passive_axes_are_not_cut_and_are_named():
    layout = layout_of({"e": jnp.zeros((100, 6))}, lambda *_: View((0, 1), passive=(0,)), ragged(4))
    assert {n: s.shape for n, s in layout.stacks.items()} == {"(100)x2": (1, 100, 2), "(100)x4": (1, 100, 4)}


def test_stacks_are_float32_or_wider_and_leaves_come_back_in_their_dtype():
    leaves = [jnp.ones((2, 2), dtype) for dtype in (jnp.bfloat16, jnp.float16, jnp.float32)]
    layout = layout_of(leaves, lambda *_: View((0, 1)), None)
    stacks = layout.pack(leaves)
    assert stacks["2x2"].dtype == jnp.float32
    assert [x.dtype for x in layout.unpack(stacks, leaves)] == [x.dtype for x in leaves]


@pytest.mark.parametrize(
    "view", [3, (0, 1), View(3), View("01"), View((0.5, 1)), View((0, 1), "0"), View((0, 1), (), 4)]
)
def test_a_view_of_another_kind_says_whose_it_is(view):
    with pytest.raises(TypeError, match=r"'w': .*must"):
        layout_of({"w": jnp.zeros((4, 6))}, lambda *_: view, 4)


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (View((0, 2)), r"View.axes=\(0, 2\) does not fit 'w', read as \(4, 6\)"),
        (View(()), "name at least one axis"),
        (View((0, -2)), "names an axis of 'w' twice"),
        (View((0, 1), passive=(0, 1)), "leave at least one active"),
        (View((0, 1), passive=(2,)), "distinct positions"),
        (View((0, 1), shape=(5, 5)), r"View.shape=\(5, 5\) does not fit 'w' of shape \(4, 6\)"),
        (View((0, 1), shape=(-1, -1)), "at most one -1"),
    ],
)
def test_a_view_that_does_not_fit_says_which_and_why(view, message):
    with pytest.raises(ValueError, match=message):
        layout_of({"w": jnp.zeros((4, 6))}, lambda *_: view, 4)


@pytest.mark.parametrize(
    ("length", "size", "pieces"),
    [
        (2304, 1024, [768, 768, 768]),
        (1500, 1024, [750, 750]),
        (1024, 1024, [1024]),
        (2050, 1024, [688, 688, 674]),
        (50304, 1024, 49 * [1008] + [912]),
        (11, 4, [4, 4, 3]),
        (2304, ragged(1024), [1024, 1024, 256]),
        (7, None, [7]),
    ],
)
def test_a_longer_axis_is_cut_into_the_fewest_pieces_and_equal_ones_where_it_divides(length, size, pieces):
    layout = layout_of({"w": jax.ShapeDtypeStruct((length,), "float32")}, lambda *_: View((0,)), size)
    found = [int(name) for name, stack in layout.stacks.items() for _ in range(stack.shape[0])]
    assert sorted(found) == sorted(pieces)


def test_whole_numbers_of_numpy_make_the_layout_of_other_whole_numbers():
    leaf = {"a": jnp.zeros((16, 8))}
    view = View((np.int64(0), np.int64(1)), shape=(np.int64(4), np.int64(32)), passive=(np.int64(0),))
    plain = View((0, 1), shape=(4, 32), passive=(0,))
    numbers = [fingerprint(layout_of(leaf, views_of({"a": v}), b)) for v, b in ((view, np.int64(8)), (plain, 8))]
    assert numbers[0] == numbers[1]


def test_views_are_asked_once_for_the_same_shapes():
    asked = []

    def views(path, leaf):
        asked.append(path)
        return View((0, 1)) if leaf.ndim == 2 else None

    for shape in ((4, 6), (4, 6), (8, 6)):
        layout_of({"kernel": jnp.zeros(shape), "bias": jnp.zeros(6)}, views, 4)
    assert asked == ["bias", "kernel"] * 2

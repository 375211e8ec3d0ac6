"""Which parameters get which views."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx

from precond.blocks import View, as_views, default_views, path_name, rules, small_side, tensors


def seen(views, params):
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    return {path_name(path): views(path_name(path), leaf) for path, leaf in flat}


class Net(linen.Module):
    @linen.compact
    def __call__(self, tokens):
        x = linen.Embed(11, 8)(tokens)
        x = linen.MultiHeadDotProductAttention(num_heads=2)(x, x)
        x = linen.LayerNorm()(x)
        return linen.Conv(5, (3,))(x)


def test_the_defaults_know_flax_linen_layers():
    params = Net().init(jax.random.key(0), jnp.zeros((1, 4), int))["params"]
    views = seen(default_views, params)
    attention = "MultiHeadDotProductAttention_0"
    assert views.pop("Embed_0/embedding") is None
    assert views.pop("Conv_0/kernel") == View(((0, 1), (2,)))
    assert views.pop(f"{attention}/out/kernel") == View(((0, 1), (2,)))
    for name in ("query", "key", "value"):
        assert views.pop(f"{attention}/{name}/kernel") == View(((0,), (1, 2)))
    assert set(views.values()) == {None}  # biases and norms


def test_nnx_paths_are_the_same_at_init_and_at_update():
    model = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    state = nnx.state(model, nnx.Param)
    pure = nnx.to_pure_dict(state)
    assert set(seen(default_views, state)) == set(seen(default_views, pure)) == {"kernel", "bias"}


@pytest.mark.parametrize(
    ("shape", "dtype", "view"),
    [
        ((), "float32", None),
        ((7,), "float32", None),
        ((1, 7), "float32", None),
        ((3, 1), "float32", None),
        ((3, 4), "complex64", None),
        ((3, 4), "int32", None),
        ((3, 4), "bfloat16", View(((0,), (1,)))),
        ((2, 3, 4), "float32", View(((1,), (2,)))),
        ((2, 3, 4, 5), "float32", View(((2,), (3,)))),
    ],
)
def test_the_defaults_by_shape_and_dtype(shape, dtype, view):
    assert default_views("w", jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))) == view


def test_the_first_pattern_decides_and_may_be_any_kind_of_rule():
    leaf = jnp.zeros((9, 4))
    views = rules(("a", None), ("b", View((1,))), ("c", {"axes": (0,)}), ("d", small_side), otherwise=tensors())
    assert views("a/b", leaf) is None
    assert views("b", leaf) == View((1,))
    assert views("c", leaf) == View((0,))
    assert views("d", leaf).passive == (0,)
    assert views("e", leaf) == View((0, 1), (), (9, 4))


def test_small_side_takes_the_smaller_and_leaves_others_alone():
    assert small_side("e", jnp.zeros((3, 9))).passive == (1,)
    assert small_side("e", jnp.zeros((3, 9, 2))) is None


@pytest.mark.parametrize(
    ("shape", "limit", "read"),
    [
        ((6, 4), 4096, (24,)),
        ((3, 3, 128, 128), 4096, (1152, 128)),
        ((1, 1), 8, (1,)),
        ((64, 1, 100), 50, (64, 100)),
        ((2, 3, 4), 6, (6, 4)),
    ],
)
def test_merging_follows_google(shape, limit, read):
    assert tensors(merge=limit)("w", jnp.zeros(shape)).shape == read


@pytest.mark.parametrize(
    ("shape", "limit", "target", "read"),
    [
        ((32, 3, 64, 64), 8192, 1, (96, 4096)),
        ((32, 3, 64, 64), 10**6, 2, (32, 12288)),
        ((1, 2, 5, 1), 10, 1, (10,)),
        ((1, 2, 5, 1), 9, 1, (2, 5)),
        ((6, 5), None, 1, (30,)),
        ((6, 5), None, 2, (6, 5)),
        ((1, 1), 8, 1, (1,)),
        ((), 8, 1, (1,)),
    ],
)
def test_merging_from_the_right_follows_meta(shape, limit, target, read):
    assert tensors(squeeze=True, merge=limit, target=target)("w", jnp.zeros(shape)).shape == read


def test_long_axes_are_passive_and_a_parameter_of_only_such_has_no_view():
    assert tensors(max_size=5)("w", jnp.zeros((9, 4))).passive == (0,)
    assert tensors(max_size=5)("w", jnp.zeros((9, 8))) is None


@pytest.mark.parametrize("views", ["kernel", 3])
def test_views_of_another_kind_are_refused(views):
    with pytest.raises(TypeError, match="views="):
        as_views(views)

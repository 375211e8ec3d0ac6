"""What a tree says of its parameters beyond their shapes."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx

from precond import views
from precond.blocks import View, layout_of, path_name
from precond.blocks.find_layer_axes import find_layer_axes
from precond.blocks.parameter import parameters_of


def read(params, how=views.default):
    return {path: how(path, leaf) for path, leaf in parameters_of(params)}


def axes_of(**shapes):
    found = find_layer_axes({tuple(path.split("__")): shape for path, shape in shapes.items()})
    return {"__".join(parts): axes for parts, axes in found.items()}


def test_a_bias_says_that_its_kernel_is_stacked_and_a_bias_of_heads_does_not():
    assert axes_of(a__kernel=(6, 64, 128), a__bias=(6, 128))["a__kernel"] == (0,)
    assert axes_of(a__kernel=(64, 6, 128), a__bias=(128, 6))["a__kernel"] == (1,)
    assert axes_of(a__kernel=(64, 4, 16), a__bias=(4, 16))["a__kernel"] == ()
    assert axes_of(a__kernel=(6, 64, 4, 16), a__bias=(6, 4, 16))["a__kernel"] == (0,)
    assert axes_of(a__kernel=(4, 16, 64), a__bias=(64,))["a__kernel"] == ()
    assert axes_of(a__weight=(6, 128, 64), a__bias=(6, 128))["a__weight"] == (0,)
    assert axes_of(a__weight=(128, 64, 5), a__bias=(128, 1))["a__weight"] == ()


def test_a_norm_says_it_of_all_that_is_stacked_with_it_and_of_nothing_else():
    found = axes_of(
        layers__norm__scale=(64, 6),
        layers__mlp__kernel=(64, 6, 128),
        layers__moe__wi=(8, 6, 64, 24),
        head__kernel=(64, 9),
    )
    assert found == {
        "layers__norm__scale": (1,),
        "layers__mlp__kernel": (1,),
        "layers__moe__wi": (1,),
        "head__kernel": (),
    }


@pytest.mark.parametrize("layers", [6, 12])
def test_bare_arrays_of_layers_are_stacked_where_there_are_as_many_heads_too(layers):
    found = axes_of(
        layers__attn_norm=(layers, 64),
        layers__wq=(layers, 64, 12, 5),
        layers__wo=(layers, 12, 5, 64),
        layers__w1=(layers, 64, 128),
        embed=(500, 64),
    )
    assert found == {"embed": ()} | {f"layers__{name}": (0,) for name in ("attn_norm", "wq", "wo", "w1")}
    shapes = {"ln1": (layers, 64), "W_O": (layers, 12, 5, 64), "b_Q": (layers, 12, 5), "W_in": (layers, 64, 128)}
    params = {"blocks": {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}}
    assert {path for path, view in read(params).items() if view is not None} == {"blocks/W_O", "blocks/W_in"}
    assert layout_of(params, views.default, 128).blocks == {"60x64": layers, "64x128": layers}


def test_a_norm_of_heads_is_no_stack():
    assert axes_of(attn__q_norm=(12, 64), attn__wq=(12, 768, 64))["attn__wq"] == ()


@pytest.mark.parametrize("name", ["head", "output_projection", "classifier"])
def test_a_matrix_of_the_shape_of_a_table_has_its_vocabulary(name):
    def views_of(long, **more):
        shapes = {"wte": {"embedding": (long, 64)}, name: {"kernel": (64, long)}} | more
        return read(
            jax.tree.map(lambda x: jax.ShapeDtypeStruct(x, "float32"), shapes, is_leaf=lambda x: type(x) is tuple)
        )

    wide = {"kernel": (64, 20000)}
    stack = {"norm": {"scale": (6, 64)}, "up": {"kernel": (6, 64, 20000)}}
    found = views_of(20000, layer_0=wide, layers=stack, decoder={"outputs": {name: wide}})
    assert found[f"{name}/kernel"] is None
    assert found[f"decoder/outputs/{name}/kernel"] is None  # its table is far away
    assert found["layer_0/kernel"] is not None  # as wide by chance
    assert found["layers/up/kernel"] is not None
    assert views_of(2000)[f"{name}/kernel"] is not None


def test_a_stack_of_stacks_has_two_axes():
    assert axes_of(a__norm__scale=(2, 3, 64), a__mlp__kernel=(2, 3, 64, 128))["a__mlp__kernel"] == (0, 1)


def test_a_norm_over_two_axes_is_no_stack_of_the_matrices_beside_it():
    assert axes_of(norm__scale=(8, 8), linear__kernel=(8, 16))["linear__kernel"] == ()


class Block(linen.Module):
    @linen.compact
    def __call__(self, x, _):
        x = x + linen.MultiHeadDotProductAttention(2)(linen.LayerNorm()(x))
        return x + linen.Dense(8)(linen.Conv(16, (3,))(x)), None


@pytest.mark.parametrize("axis", [0, 1])
def test_layers_that_linen_scans_are_read_as_one_of_them(axis):
    scan = linen.scan(Block, variable_axes={"params": axis}, split_rngs={"params": True}, length=3)
    x = jnp.zeros((2, 4, 8))
    many = jax.eval_shape(lambda: scan().init(jax.random.key(0), x, None))["params"]
    one = jax.eval_shape(lambda: Block().init(jax.random.key(0), x, None))["params"]
    layers, layer = layout_of(many, views.default, None), layout_of(one, views.default, None)
    assert layers.viewed == layer.viewed
    assert layers.blocks == {name: 3 * count for name, count in layer.blocks.items()}


def test_layers_that_nnx_vmaps_are_read_as_one_of_them():
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(key):
        return nnx.Linear(4, 8, rngs=nnx.Rngs(key))

    state = nnx.state(make(jax.random.split(jax.random.key(0), 3)), nnx.Param)
    assert read(state) == {"bias": None, "kernel": View(((1,), (2,)))}


class Named(linen.Module):
    @linen.compact
    def __call__(self, x, _):
        init = linen.with_logical_partitioning(linen.initializers.lecun_normal(), ("embed", "mlp"))
        return linen.Dense(8, kernel_init=init, use_bias=False, name="any")(x), None


def boxed():
    scan = linen.scan(
        Named,
        variable_axes={"params": 1},
        split_rngs={"params": True},
        length=3,
        metadata_params={linen.PARTITION_NAME: "layers"},
    )
    return jax.eval_shape(lambda: scan().init(jax.random.key(0), jnp.zeros((2, 8)), None))["params"]


def test_names_of_axes_are_taken_once_and_hold_for_bare_parameters():
    params = boxed()
    by_name = views.named(params)
    wanted = {"any/kernel": View(((0,), (2,)))}
    assert read(params, by_name) == read(linen.unbox(params), by_name) == wanted


def variables(**shapes_and_names):
    return nnx.State(
        {
            key: nnx.Param(jnp.zeros(shape), out_sharding=names, eager_sharding=False)
            for key, (shape, names) in shapes_and_names.items()
        }
    )


def test_names_in_nnx():
    state = variables(
        kernel=((8, 3, 4, 5), ("embed", "layers", "heads", "kv")),
        experts=((3, 4, 8, 9), ("exp", "layers", "embed", "mlp")),
        out=((4, 5, 8), ("heads", "kv", "embed")),
        gate=((8, 3, 6), ("embed", "layers", "exp")),
        table=((16, 8), ("vocab", "embed")),
        mesh=((8, 9), (None, "model")),
    )
    assert read(nnx.to_pure_dict(state), views.named(state)) == {
        "kernel": View(((0,), (2, 3))),
        "experts": View(((2,), (3,))),
        "out": View(((0, 1), (2,))),
        "gate": View(((0,), (2,))),
        "table": None,
        "mesh": View(((0,), (1,))),
    }


def test_a_tree_without_names_is_refused():
    with pytest.raises(ValueError, match="nothing in the tree carries names"):
        views.named({"kernel": jnp.zeros((2, 3))})


def test_paths_in_boxes_are_those_without():
    paths = [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(boxed())[0]]
    assert paths == ["any/kernel"]

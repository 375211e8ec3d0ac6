"""Presets have the parameters of the papers' models, and layers as K-FAC captures them."""

import jax
import pytest

from precond.planning import dense_layers, divided, gpt, llama, moe, vit

pytestmark = pytest.mark.platforms


def numbers(shapes):
    return sum(x.size for x in jax.tree.leaves(shapes))


RELEASED = {
    "GPT-2": (lambda: gpt(768, 12, vocabulary=50257), 124439808),
    "GPT-2 medium": (lambda: gpt(1024, 24, vocabulary=50257), 354823168),
    "GPT-2 large": (lambda: gpt(1280, 36, vocabulary=50257), 774030080),
    "GPT-2 XL": (lambda: gpt(1600, 48, vocabulary=50257), 1557611200),
    "Llama 2 7B": (lambda: llama(4096, 32, kv_heads=32, hidden=11008, vocabulary=32000), 6738415616),
    "Llama 3 8B": (lambda: llama(4096, 32), 8030261248),
    "Llama 3 70B": (lambda: llama(8192, 80), 70553706496),
    "Mixtral 8x7B": (lambda: moe(4096, 32), 46702792704),
    "ViT-B/16": (lambda: vit(768, 12), 86567656),
    "ViT-L/16": (lambda: vit(1024, 24), 304326632),
    "ViT-B/32": (lambda: vit(768, 12, patch=32), 88224232),
}


@pytest.mark.parametrize(("make", "count"), RELEASED.values(), ids=RELEASED)
def test_a_preset_has_the_parameters_of_the_released_model(make, count):
    assert numbers(make()) == count


@pytest.mark.parametrize("preset", [gpt, llama, moe, vit])
def test_a_dtype_holds_for_all_parameters(preset):
    assert {x.dtype.name for x in jax.tree.leaves(preset(128, 1, dtype="bfloat16"))} == {"bfloat16"}


WRONG = {
    "no width": (lambda: gpt(0, 1), "width=0"),
    "no experts": (lambda: moe(128, 1, experts=0), "experts=0"),
    "heads": (lambda: llama(128, 1, heads=3), "heads=3: this number of heads does not divide width=128"),
    "heads of keys": (lambda: moe(128, 1, heads=4, kv_heads=3), "kv_heads=3: this number does not divide heads=4"),
    "patches": (lambda: vit(128, 1, image=224, patch=15), "patch=15: patches of this side do not tile"),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_sizes_that_do_not_fit_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def factors(shapes):
    """The lengths of each layer's factors by path."""
    found = dense_layers(shapes)
    return {
        path: (f.inputs.shape[0], f.inputs.shape[-1], f.outputs.shape[-1]) for path, f in found.factors.items()
    }, found.left


def test_a_convolution_has_the_factors_of_one_patch():
    found, left = factors(vit(64, 1, patch=8))
    assert found["patches"] == (1, 8 * 8 * 3 + 1, 64)
    assert found["layer_0/qkv"] == (1, 65, 192)
    assert found["head"] == (1, 65, 1000)
    assert left == ()


def test_experts_are_layers_of_one_size():
    found, _ = factors(moe(128, 1, experts=4))
    assert found["layer_0/experts/gate"] == (4, 128, 448)
    assert found["layer_0/experts/down"] == (4, 448, 128)
    assert found["layer_0/router"] == (1, 128, 4)


def test_a_head_over_a_vocabulary_is_left_out():
    found, left = factors(llama(128, 1))
    assert "head" not in found
    assert left == ("head/kernel",)


def test_a_model_without_layers_is_refused():
    with pytest.raises(ValueError, match="none of these parameters is the weights of a dense layer"):
        dense_layers({"norm": {"scale": jax.ShapeDtypeStruct((8,), "float32")}})


def test_parameters_are_divided_along_the_longest_side_that_devices_divide():
    array = lambda *shape: jax.ShapeDtypeStruct(shape, "float32")  # noqa: E731
    tree = {"a": array(8, 24), "b": array(32, 9), "c": array(7), "d": array()}
    specs = jax.tree.map(lambda x: tuple(x.sharding.spec), divided(tree, {"data": 4, "tensor": 2}, ("data", "tensor")))
    assert specs == {"a": (None, ("data", "tensor")), "b": (("data", "tensor"),), "c": (), "d": ()}
    with pytest.raises(ValueError, match="'fsdp' is not an axis of the mesh, which has data"):
        divided(tree, {"data": 4}, ["fsdp"])
